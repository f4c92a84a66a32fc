"""Objectives: the loss and measures of a family's tasks, and gradients of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from fedmeta import parts
from fedmeta.errors import ConfigError, DataError
from fedmeta.registry import Registry
from fedmeta.tasks.batch import MASK, Examples
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.measure import LOSS, Measure, main_of

Tensors = dict[str, Tensor]


class Gradient(NamedTuple):
    """The gradient of each task's loss for its own parameters, with the loss and prediction.

    Attributes:
        values: Keys and shapes of the parameters, ``[T, ...]``.
        loss: ``[T]``.
        prediction: ``[T, B, ..., outputs]``.
    """

    values: Tensors
    loss: Tensor
    prediction: Tensor


class Kernel(Protocol):
    """The part of a native kernel that objectives use; see `fedmeta.learning.native.kernel`."""

    def takes(self, params: Tensors, x: Tensor) -> bool:
        """Return whether there is a kernel for these parameters and inputs."""
        ...

    def takes_loss(self, objective: "Objective", params: Tensors, examples: Examples) -> bool:
        """Return whether there is a kernel for the loss of these examples too."""
        ...

    def forward(self, params: Tensors, x: Tensor, stat_rows: int) -> Tensor:
        """Predict for the examples after the first `stat_rows`; differentiable once."""
        ...

    def gradient(self, objective: "Objective", params: Tensors, examples: Examples) -> Gradient:
        """Return the gradient of each task's loss."""
        ...

    def hvp(
        self, objective: "Objective", params: Tensors, examples: Examples, vector: Tensors
    ) -> Tensors:
        """Return each task's Hessian-vector product."""
        ...


class Network(Protocol):
    """The part of a model's interface that objectives use; see `fedmeta.learning.Model`."""

    batch_norm: bool

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, ..., outputs]`` from ``x [T, B, *input]`` with a set of weights per task."""
        ...


class Objective(ABC):
    """Base class of objectives, which alone know the meaning of a batch's tensors.

    Results must not depend on other tasks of the batch or on padded examples: take means with
    `mean_of_examples`.

    Args:
        spec: The shape of the tasks.
    """

    measures: ClassVar[Mapping[str, Measure]] = {}
    """Measures besides the loss, by name; values are averaged over tasks. The first is the main measure,
    by which models are compared; without any, that is the loss."""
    labels: ClassVar[bool] = False
    """Whether targets ``y`` are labels, and predictions their logits."""
    class_names: ClassVar[tuple[str, ...]] = ()
    """Names of the labels, if they mean the same in all tasks; empty: they have none."""
    has_support: ClassVar[bool] = True
    """Whether tasks have a support set; without one, batch norm takes its statistics from the examples
    themselves."""
    numbers: ClassVar[bool] = False
    """Whether targets ``y`` and predictions are ``spec.outputs`` real numbers per example."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec

    @abstractmethod
    def loss(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the loss of each task, ``[T]``, to be differentiated."""

    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:  # noqa: ARG002
        """Return the values of `measures`, ``[T]`` each, in their order."""
        return {}

    def inputs(self, examples: Examples) -> Tensor:
        """Return the model's inputs, ``[T, B, *input]``; override where they are not ``x``."""
        return examples["x"]

    def check(self, examples: Examples, half: str) -> Examples:  # noqa: ARG002
        """Return the examples of a user's family with the right dtypes.

        Shapes and values of ``x`` and ``mask``, and the absence of NaN, have been checked already.

        Args:
            examples: The examples drawn.
            half: ``support`` or ``query``, for messages.

        Raises:
            ValueError: If targets are missing or wrong, in one line.
        """
        return examples

    def made_up_targets(self, x: Tensor, generator: torch.Generator) -> Tensors | None:  # noqa: ARG002
        """Return targets for made-up inputs, to test parts without data; None if not possible."""
        return None

    def forward(
        self,
        model: Network,
        params: Tensors,
        examples: Examples,
        support_x: Tensor | None = None,
        *,
        once: bool = False,
    ) -> Tensor:
        """Predict with a set of parameters per task.

        Args:
            model: The network.
            params: ``[T, ...]`` each.
            examples: A half of a batch; its targets are not read.
            support_x: Inputs whose statistics batch norm uses (inductive); None: those of `examples`
                themselves (transductive).
            once: Whether the caller differentiates the result at most once, as native kernels can.

        Raises:
            DataError: If the model has batch norm and the half has padding, which would enter its
                statistics.
        """
        x = self.inputs(examples)
        rows = 0
        if model.batch_norm:
            if MASK in examples:
                raise DataError(
                    "a model with batch norm needs tasks of equal size: padding would enter its "
                    "statistics"
                )
            if support_x is not None:
                rows, x = support_x.shape[1], torch.cat([support_x, x], dim=1)
        kernel = kernel_of(model)
        if kernel is not None and (once or not _needs_graph(params)) and kernel.takes(params, x):
            return kernel.forward(params, x, rows)
        return model.forward(params, x, rows)[:, rows:] if rows else model.forward(params, x)

    def gradient(
        self, model: Network, params: Tensors, examples: Examples, create_graph: bool = False
    ) -> Gradient:
        """Return the gradient of each task's loss for its `params`, which must require gradients.

        A native kernel computes it where the model has one and no graph is needed.
        """
        kernel = None if create_graph else kernel_of(model)
        if kernel is not None and kernel.takes_loss(self, params, examples):
            return kernel.gradient(self, params, examples)
        prediction = self.forward(model, params, examples)
        loss = self.loss(prediction, examples)
        return Gradient(gradients(loss, params, create_graph), loss, prediction)

    @torch.enable_grad()
    def hvp(self, model: Network, params: Tensors, examples: Examples, vector: Tensors) -> Tensors:
        """Return each task's ``H v``: the Hessian of its loss at `params` times ``vector [T, ...]``."""
        kernel = kernel_of(model)
        fits = kernel is not None and kernel.takes_loss(self, params, examples)
        if kernel is not None and fits and kernel.takes(vector, examples["x"]):
            return kernel.hvp(self, params, examples, vector)
        params = leaves(params)
        slope = self.gradient(model, params, examples, create_graph=True).values
        along = sum((slope[key] * vector[key]).flatten(1).sum(1) for key in params)
        assert isinstance(along, Tensor)
        return gradients(along, params)

    @property
    def main(self) -> str:
        """Name of the measure by which models are compared."""
        return main_of(self.measures)

    @property
    def all_measures(self) -> dict[str, Measure]:
        """The loss and the measures, by name."""
        return {LOSS: Measure(), **self.measures}

    @property
    def training_measures(self) -> dict[str, Measure]:
        """Metrics of training: each measure after adaptation and, as ``NAME_before``, before it."""
        return {
            f"{name}{when}": one for name, one in self.all_measures.items() for when in ("", "_before")
        }


OBJECTIVES: Registry[type[Objective]] = parts.OBJECTIVES


def build_objective(spec: TaskSpec) -> Objective:
    """Return the objective of tasks of the shape `spec`.

    Raises:
        ConfigError: If the name is unknown, or is not that of an `Objective`.
    """
    kind = OBJECTIVES.get(spec.objective)
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise ConfigError(f"objective '{spec.objective}' is not a subclass of fedmeta.tasks.Objective")
    return kind(spec)


def kernel_of(model: Network) -> Kernel | None:
    """Return a model's native kernels; None if it has none, or the run does without."""
    kernel: Kernel | None = getattr(model, "kernel", None)
    return kernel


def _needs_graph(params: Tensors) -> bool:
    return torch.is_grad_enabled() and any(value.requires_grad for value in params.values())


def leaves(params: Mapping[str, Tensor]) -> Tensors:
    """Return the same values as new leaf tensors that require gradients."""
    return {key: value.detach().requires_grad_() for key, value in params.items()}


def gradients(losses: Tensor, params: Mapping[str, Tensor], create_graph: bool = False) -> Tensors:
    """Return the gradients of losses ``[T]`` for per-task tensors in one pass; tasks are independent."""
    grads = torch.autograd.grad(
        losses.sum(), list(params.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(params, grads, strict=True))


def mean_of_examples(values: Tensor, examples: Examples) -> Tensor:
    """Average ``[T, B, ...]`` over all but the task axis, without padded examples: ``[T]``."""
    mask = examples.get(MASK)
    if mask is None:
        return values.flatten(1).mean(1)
    each = values.flatten(2).mean(2) if values.dim() > 2 else values
    return each.where(mask, 0.0).sum(1) / mask.sum(1)


def within(values: Tensor, count: int, name: str, what: str) -> Tensor:
    """Return integers if they are between 0 and ``count - 1``.

    Raises:
        ValueError: If not, naming one that is not.
    """
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high < count:
        return values
    odd = low if low < 0 else high
    hint = "; count from 0" if low >= 1 and high == count else ""
    raise ValueError(f"{name} holds {odd}, but {what} must be between 0 and {count - 1}{hint}")


def dtype_name(values: Tensor) -> str:
    """Return the short name of a dtype, such as ``float32``."""
    return str(values.dtype).removeprefix("torch.")
