"""Base classes of models and meta-learning algorithms."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fedmeta.options import Options
from fedmeta.registry import Registry
from fedmeta.tasks import TaskBatch, TaskSpec

Tensors = dict[str, Tensor]
"""A flat dict of tensors: parameters, a meta-learned state, a gradient, adapted values."""


class Model(Protocol):
    """A network as a function over the task axis.

    Attributes:
        outputs: Size of the last axis of what `forward` returns.
        chunk_tasks: How many tasks are computed fastest in one batch; the grid cuts cohorts by it.
        batch_norm: Whether `forward` uses batch statistics, so that transduction matters.
    """

    outputs: int
    chunk_tasks: int
    batch_norm: bool

    @property
    def constants(self) -> Tensors:
        """Tensors that `forward` uses and nobody learns, by name, without a task axis; none by default.

        They are the same for every task and client, are not sent, and belong to a checkpoint.
        """
        return {}

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw initial parameters, without a task axis."""
        ...

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, ..., outputs]`` from ``x [T, B, *input]`` with a set of weights per task.

        Args:
            params: The tensors of `init` with a leading task axis, ``[T, ...]``.
            x: Inputs of each task.
            stat_rows: Batch norm takes its mean and variance from the first `stat_rows` examples of a
                task alone (None: from all of them). Models without batch norm ignore it.
        """
        ...


class ModelBuilder(Protocol):
    """What is registered as a model: its options, and a constructor (``outputs=None``: an embedding)."""

    Options: ClassVar[type[Options]]

    def __call__(self, options: Any, spec: TaskSpec, outputs: int | None) -> Model:
        """Build the network; raises ConfigError if it does not fit the tasks."""
        ...


MODELS: Registry[Any] = Registry("model", "fedmeta.learning.models")
"""Holds a `ModelBuilder` per name; a dotted path may also lead to a `torch.nn.Module` class."""


class Algorithm(ABC):
    """How to learn from tasks. Holds settings only; everything learned is in the state it is given.

    The state is a flat dict of tensors: whatever is meta-learned (initial weights, learning rates, a
    memory, the weights of an optimizer network). `init` returns it without a task axis; every other
    method takes it *with* one, ``[T, ...]``, so that tasks of clients whose states differ can be
    computed together. `expand_state` adds the axis without copying.

    Args:
        options: The algorithm's own options.
        model: The network on the task axis.
        spec: The shape of the tasks.
        transductive: Whether batch norm may take its statistics from the query set.
    """

    Options: ClassVar[type[Options]]
    second_order: ClassVar[bool] = False
    """Whether `task_updates` differentiates a gradient; a model's second derivatives are tried then."""

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        self.options = options
        self.model = model
        self.spec = spec
        self.transductive = transductive

    @staticmethod
    def model_outputs(spec: TaskSpec) -> int | None:
        """Return how many outputs the model should have; None: no head, an embedding."""
        return spec.outputs

    @property
    def max_ways(self) -> int | None:
        """How many classes a task may have at test; None: any number."""
        return self.model_outputs(self.spec)

    @abstractmethod
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the initial state, without a task axis."""

    @abstractmethod
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Compute what each task asks the state to change.

        Args:
            state: ``[T, ...]`` each.
            tasks: T tasks.

        Returns:
            The pseudo-gradients, keys and shapes of `state`, to be *descended*; and per-task metrics,
            ``[T]`` each: ``loss`` (query, after adaptation), ``loss_before`` (before it), and for
            classification ``accuracy`` and ``accuracy_before``.
        """

    @abstractmethod
    def adapt(self, state: Tensors, support_x: Tensor, support_y: Tensor, steps: int) -> Tensors:
        """Adapt to each task's support set in `steps` steps; no gradient flows back to `state`.

        Returns:
            What `predict` needs, ``[T, ...]`` each: for example adapted weights, or prototypes.
        """

    @abstractmethod
    def predict(
        self, state: Tensors, adapted: Tensors, x: Tensor, transductive: bool | None = None
    ) -> Tensor:
        """Predict ``[T, B, ..., outputs]`` (logits or values) for ``x [T, B, *input]``.

        Args:
            state: The state that `adapted` came from.
            adapted: What `adapt` or `trajectory` returned; it serves both modes.
            x: Inputs of each task.
            transductive: Whether batch norm may use the statistics of `x` itself; None: as the
                algorithm was built. Without it, the support set's statistics are used.
        """

    def trajectory(
        self, state: Tensors, support_x: Tensor, support_y: Tensor, steps: Sequence[int]
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield ``(step, adapted)`` for each of the increasing `steps`; override to share the work."""
        for step in steps:
            yield step, self.adapt(state, support_x, support_y, step)


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "fedmeta.learning.algorithms")


def expand_state(state: Mapping[str, Tensor], tasks: int) -> Tensors:
    """Give every tensor a leading axis of `tasks` that shares one memory."""
    return {key: value.expand(tasks, *value.shape) for key, value in state.items()}
