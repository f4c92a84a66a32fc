"""The mean over tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fedmeta.federation.aggregation import AggregationRule, Vectors

if TYPE_CHECKING:
    from fedmeta.federation.gate import Update


class Mean(AggregationRule):
    """The mean over all tasks of the cohort: FedAvg, weighted by tasks instead of examples.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    Algorithm 1, last line. The float64 sum adds one client at a time, so it takes the memory of one
    update and does not depend on how the cohort is split into chunks.
    """

    @override
    def __init__(self, *args: Any, **options: Any) -> None:
        import torch

        super().__init__(*args, **options)
        self._sum = torch.zeros(self.size, dtype=torch.float64)
        self._tasks = 0

    @override
    def add(self, update: Update) -> None:
        self.add_vector(update.vector, update.tasks)

    def add_vector(self, vector: Vectors, tasks: int) -> None:
        """Add an update ``[D]``, weighted by its tasks."""
        import torch

        self._sum.add_(torch.from_numpy(vector), alpha=tasks)
        self._tasks += tasks

    @override
    def result(self) -> Vectors:
        mean: Vectors = (self._sum / self._tasks).numpy()
        return mean
