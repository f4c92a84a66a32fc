"""Base classes of models and meta-learning algorithms."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fedmeta import parts
from fedmeta.about import About
from fedmeta.errors import ConfigError
from fedmeta.learning.local import KeyRule, LocalWork, local_steps
from fedmeta.learning.local import Tensors as Tensors
from fedmeta.learning.native.kernel import Kernel
from fedmeta.options import Options
from fedmeta.registry import Registry, name_of
from fedmeta.tasks import Examples, TaskBatch, TaskSpec, build_objective

SUPPORT_X = "@support_x"
"""Key under which adapted values carry the support inputs; no parameter can have this name."""
Judged = tuple[Tensor, Tensor, Examples]
"""Losses ``[T]``, the predictions, and the examples that were predicted."""


class Model(Protocol):
    """A network as a function over the task axis.

    Attributes:
        outputs: Size of the last axis of the output of `forward`.
        chunk_tasks: Number of tasks that is fastest in one batch on a CPU; the grid chunks cohorts by
            it. On a GPU it is 16 times that, unless the model has ``cuda_chunk_tasks`` too.
        batch_norm: Whether `forward` uses batch statistics, so that transduction matters.
        reads_graphs: Whether its inputs may be graphs, see `fedmeta.tasks.graph`.
    """

    outputs: int
    chunk_tasks: int
    batch_norm: bool
    reads_graphs: ClassVar[bool] = False

    kernel: Kernel | None = None
    """Native kernels, in a run with ``kernels = "native"``; a model that has some describes itself by
    ``kernel_plan``."""

    @property
    def constants(self) -> Tensors:
        """Tensors that `forward` uses but that are not learned, by name, without a task axis.

        They are the same for every task and client, are not sent, and are part of a checkpoint. None by
        default.
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
            stat_rows: Batch norm takes its mean and variance only from the first `stat_rows` examples of
                a task (None: from all of them). Models without batch norm ignore it.
        """
        ...

    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:  # noqa: ARG002
        """Return the output of each layer, ``[T, B, ...]`` by name, in their order; see `forward`.

        For explanations only. None by default: the network does not show its layers.
        """
        return {}

    def body(self) -> "Model | None":
        """Return the network without its head, as an embedding on the same parameters.

        The head must be linear, ``head.weight [in, out]`` and ``head.bias``. None by default: the
        network cannot be cut.
        """
        return None


class ModelBuilder(Protocol):
    """A class that is registered as a model: its options and its constructor."""

    Options: ClassVar[type[Options]]

    def __call__(self, options: Any, spec: TaskSpec, outputs: int | None) -> Model:
        """Build the network; with ``outputs=None`` as an embedding, without a head.

        Raises:
            ConfigError: If it does not fit the tasks.
        """
        ...


MODELS: Registry[Any] = parts.MODELS
"""Holds a `ModelBuilder` per name; a dotted path may also lead to a `torch.nn.Module` class."""


class Algorithm(ABC):
    """Base class of meta-learning algorithms. It holds only settings; what is learned is in the state.

    The state is a flat dict of tensors: whatever is meta-learned (initial weights, learning rates, a
    memory, the weights of an optimizer network). `init` returns it without a task axis; every other
    method takes it *with* one, ``[T, ...]``, so that tasks of clients whose states differ can be
    computed together. `expand_state` adds the axis without copying.

    A client may keep memory between rounds, see `init_client` and `local_update`. It never leaves the
    client. A round's change to it takes effect only if the round's update counts: after an update that
    was refused or late, the client's next round starts from the same memory as that one.

    Args:
        options: The algorithm's own options.
        model: The network, over the task axis.
        spec: The shape of the tasks.
        transductive: Whether batch norm may take its statistics from the query set.
    """

    Options: ClassVar[type[Options]]
    about: ClassVar[About | None] = None
    """Shown by `fedmeta list algorithms`; a subclass that is a different method declares its own."""
    second_order: bool = False
    """Whether `task_updates` differentiates a gradient, so a model's second derivatives are checked."""
    reads_sequences: ClassVar[bool] = False
    """Whether it takes tasks without a support set, see `fedmeta.learning.sequence`."""

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        self.options = options
        self.model = model
        self.spec = spec
        self.transductive = transductive
        self.objective = build_objective(spec)
        if not self.objective.has_support:
            self._check_sequences()

    def _check_sequences(self) -> None:
        if not self.reads_sequences:
            raise ConfigError(
                f"algorithm '{name_of(type(self))}' needs a support set, but a sequence has none: "
                "choose one that reads sequences, such as 'mann', or another data.order"
            )
        if self.model.batch_norm and not self.transductive:
            raise ConfigError(
                "transductive = false needs a support set for batch norm, but a sequence has none: "
                "choose a model without batch norm, such as 'mlp'"
            )

    @staticmethod
    def model_outputs(spec: TaskSpec) -> int | None:
        """Return how many outputs the model should have; None: an embedding without a head."""
        return spec.outputs

    @property
    def max_ways(self) -> int | None:
        """Largest number of classes of a task at test; None: no limit."""
        return self.model_outputs(self.spec)

    @abstractmethod
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the initial state, without a task axis."""

    @abstractmethod
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Compute each task's pseudo-gradient and metrics.

        Args:
            state: ``[T, ...]`` each.
            tasks: T tasks.

        Returns:
            The pseudo-gradients to *descend*, with the keys and shapes of `state`; and per-task metrics,
            ``[T]`` each: ``loss`` (query, after adaptation), ``loss_before`` (before it), and likewise
            for each measure of the objective, see `metrics`.
        """

    def init_client(self, client: int) -> Tensors:  # noqa: ARG002 (for those whose clients differ)
        """Return a client's memory before its first round, without a client axis; empty for none.

        Names, shapes and dtypes must be the same for all clients.

        Args:
            client: Its partition id.
        """
        return {}

    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Do the local work of C clients in one round: by default `work.steps` plain local steps.

        Args:
            start: The state that was sent to each client, ``[C, ...]``.
            client: Each client's memory, ``[C, ...]`` by key of `init_client`.
            work: Their tasks and steps.

        Returns:
            The updates for the server, ``[C, ...]`` by key of `start` (see `key_rule`); each client's
            new memory, ``[C, ...]``; and each client's mean metrics, ``[C]``.
        """
        update, metrics = local_steps(start, work)
        return update, client, metrics

    def key_rule(self, key: str) -> KeyRule:  # noqa: ARG002 (for states of several kinds)
        """Return how the server treats updates of one tensor of the state."""
        return KeyRule()

    @abstractmethod
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Adapt to each task's support set in `steps` steps; no gradient flows back to `state`.

        Returns:
            What `predict` needs, ``[T, ...]`` each: for example adapted weights, or prototypes.
        """

    @abstractmethod
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Predict ``[T, B, ..., outputs]`` (logits, values, scores) for examples without targets.

        Args:
            state: The state that `adapted` came from.
            adapted: Result of `adapt` or `trajectory`, for either value of `transductive`.
            examples: Half of a batch, such as the query set; its targets are not read.
            transductive: Whether batch norm uses the statistics of the examples themselves, or those of
                the support set; None: as the algorithm was built.
        """

    def trajectory(
        self, state: Tensors, support: Examples, steps: Sequence[int]
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield ``(step, adapted)`` for each of the increasing `steps`; override to share the work."""
        for step in steps:
            yield step, self.adapt(state, support, step)

    def support_weights(
        self,
        state: Tensors,  # noqa: ARG002 (for those that weigh examples)
        support: Examples,  # noqa: ARG002
        query: Examples,  # noqa: ARG002
        transductive: bool | None = None,  # noqa: ARG002
    ) -> Tensor | None:
        """Return how much each support example counts in each prediction, ``[T, Q, S]``.

        The support set must not be padded. Weights are at least 0, and those of a query sum to at most
        1. None, the default: the method has no such weights; see
        `fedmeta.learning.explain.leave_one_out`.
        """
        return None

    def memory_access(
        self,
        state: Tensors,  # noqa: ARG002 (for those with a memory)
        tasks: TaskBatch,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor] | None:
        """Return where a memory is read and written, ``[T, L, slots]`` each; means over heads.

        The L steps are those of a sequence; or the support examples, then each query example on its own
        after them. None, the default: there is no memory.
        """
        return None

    def learned_rates(self, state: Tensors) -> Tensors:  # noqa: ARG002 (for those that learn them)
        """Return the inner learning rates in a state without a task axis, by the tensor they scale.

        Returns:
            ``[steps, N]`` each: N rates of a tensor in each step, where ``steps`` is 1 if all steps have
            the same. None by default.
        """
        return {}

    def metrics(self, before: Judged, after: Judged) -> Tensors:
        """Collect the per-task metrics of `task_updates`, without a graph.

        Args:
            before: Loss and prediction of examples before adaptation.
            after: The same of the query set, after adaptation.
        """
        found = {"loss_before": before[0].detach(), "loss": after[0].detach()}
        for name, value in self.objective.measure(before[1].detach(), before[2]).items():
            found[f"{name}_before"] = value
        return found | self.objective.measure(after[1].detach(), after[2])

    def context(self, support: Examples) -> Tensors:
        """Return the tensors that adapted values need for `statistics`; none without batch norm."""
        return {SUPPORT_X: self.objective.inputs(support)} if self.model.batch_norm else {}

    def statistics(self, adapted: Tensors, transductive: bool | None = None) -> Tensor | None:
        """Return the inputs for batch-norm statistics; None: the examples themselves."""
        transductive = self.transductive if transductive is None else transductive
        return None if transductive else adapted.get(SUPPORT_X)


ALGORITHMS: Registry[type[Algorithm]] = parts.ALGORITHMS


def expand_state(state: Mapping[str, Tensor], tasks: int) -> Tensors:
    """Give every tensor a leading axis of size `tasks`, without copying."""
    return {key: value.expand(tasks, *value.shape) for key, value in state.items()}
