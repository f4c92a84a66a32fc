"""Base class of algorithms that train as another one does."""

import torch
from typing_extensions import override

from fedmeta.learning.algorithm import Algorithm, Tensors
from fedmeta.learning.local import KeyRule, LocalWork
from fedmeta.tasks import TaskBatch


class DelegatingAlgorithm(Algorithm):
    """Delegates training to another algorithm; a subclass defines `adapt` and `predict`.

    Args:
        algorithm: The algorithm that trains.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__(algorithm.options, algorithm.model, algorithm.spec, algorithm.transductive)
        self._algorithm = algorithm

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that trains."""
        return self._algorithm

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the initial state; see the algorithm."""
        return self._algorithm.init(generator)

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return per-task pseudo-gradients and metrics; see the algorithm."""
        return self._algorithm.task_updates(state, tasks)

    @override
    def init_client(self, client: int) -> Tensors:
        """Return a client's memory before its first round; see the algorithm."""
        return self._algorithm.init_client(client)

    @override
    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Do the local work of C clients, whose steps call `work`; see the algorithm."""
        return self._algorithm.local_update(start, client, work)

    @override
    def key_rule(self, key: str) -> KeyRule:
        """Return how the server treats updates of one tensor; see the algorithm."""
        return self._algorithm.key_rule(key)
