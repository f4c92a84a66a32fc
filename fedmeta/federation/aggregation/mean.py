"""How admitted updates become one."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.federation.gate import Update


class Aggregator(Protocol):
    """Takes the admitted updates of one round one by one, in the order of partition ids."""

    def add(self, update: Update) -> None:
        """Take one update; its vector must be copied to be kept."""
        ...

    def result(self) -> NDArray[np.float64]:
        """Return the aggregated pseudo-gradient, flat; there was at least one update."""
        ...


class TaskWeightedMean:
    """The mean over all tasks of the cohort: FedAvg's weights, with tasks for examples.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    Algorithm 1, last line. The sum is kept in float64 and grows by one client at a time, so it takes the
    memory of one update and does not depend on how the cohort was cut into chunks.

    Args:
        size: Values in an update.
    """

    def __init__(self, size: int) -> None:
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._tasks = 0

    def add(self, update: Update) -> None:
        """Add an update, weighted by its tasks."""
        self._sum.add_(torch.from_numpy(update.vector), alpha=update.tasks)
        self._tasks += update.tasks

    def result(self) -> NDArray[np.float64]:
        """Return the mean over tasks."""
        mean: NDArray[np.float64] = (self._sum / self._tasks).numpy()
        return mean


@dataclass
class MetricMean:
    """Task-weighted means of the clients' metrics."""

    tasks: int = 0

    def __post_init__(self) -> None:
        self._sums: dict[str, float] = {}

    def add(self, update: Update) -> None:
        """Add one client's metrics."""
        self.tasks += update.tasks
        for name, value in update.metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + update.tasks * value

    def mean(self, name: str) -> float | None:
        """Return the mean of one metric over tasks; None if no client reported it."""
        return self._sums[name] / self.tasks if name in self._sums else None
