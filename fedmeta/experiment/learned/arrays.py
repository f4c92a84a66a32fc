"""A user's arrays as a model reads them, and as a task's targets."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.errors import UsageError
from fedmeta.tasks import TaskSpec

Array = Tensor | NDArray[Any] | Sequence[Any]
"""What a user may pass: a tensor, an array, or nested lists of numbers."""


@dataclass(frozen=True)
class Targets:
    """The targets of a support set.

    Attributes:
        y: ``[S]`` or ``[S, length]``, int64 labels, or ``[S, outputs]`` values.
        classes: What each label stands for, by label; None in regression and for tokens.
    """

    y: Tensor
    classes: tuple[Hashable, ...] | None = None


def to_inputs(spec: TaskSpec, dtype: torch.dtype, x: Array, name: str) -> Tensor:
    """Return examples ``[B, *input_shape]``; axes of size 1 may differ, flat ones be unfolded.

    Args:
        spec: The shape of the tasks.
        dtype: Of real inputs; tokens are int64.
        x: The user's examples.
        name: What they are called in messages.

    Raises:
        UsageError: If they cannot be the model's inputs.
    """
    values = _tensor(x, name)
    shape, got = spec.input_shape, list(values.shape)
    if not got or not got[0]:
        raise UsageError(f"{name} holds no example")
    if not _fits(tuple(got[1:]), shape):
        raise UsageError(f"{name} has the shape {got}, but this run reads {['B', *shape]}")
    values = values.reshape(got[0], *shape)
    if not spec.vocabulary:
        if values.dtype == torch.uint8:
            raise UsageError(
                f"{name} holds bytes; scale it to the real numbers that the run learned from"
            )
        values = values.to(dtype)
        if not bool(values.isfinite().all()):
            raise UsageError(f"{name} holds numbers that are not finite")
        return values
    return _tokens(values, spec.vocabulary, name)


def to_targets(spec: TaskSpec, dtype: torch.dtype, y: Array, examples: int) -> Targets:
    """Return the targets of `examples` support examples.

    Raises:
        UsageError: If there are more or fewer, or they do not fit the kind of task.
    """
    if len(y) != examples:
        raise UsageError(f"support_y has {len(y)} entries for {examples} examples of support_x")
    if spec.kind == "regression":
        values = _tensor(y, "support_y").to(dtype)
        if values.numel() != examples * spec.outputs or not bool(values.isfinite().all()):
            raise UsageError(f"support_y must be {spec.outputs} finite numbers an example")
        return Targets(values.reshape(examples, spec.outputs))
    if spec.vocabulary:
        tokens = _tensor(y, "support_y")
        if tokens.shape[1:] not in {torch.Size([]), torch.Size(spec.input_shape)}:
            raise UsageError(f"support_y has the shape {list(tokens.shape)}; see support_x")
        return Targets(_tokens(tokens, spec.outputs, "support_y"))
    labels = _labels(y)
    try:
        classes = tuple(sorted(set(labels)))
    except TypeError:
        raise UsageError("support_y must be labels of one kind, all text or all numbers") from None
    number = {label: index for index, label in enumerate(classes)}
    return Targets(torch.tensor([number[label] for label in labels]), classes)


def _labels(y: Array) -> list[Any]:
    values = y.tolist() if isinstance(y, Tensor | np.ndarray) else list(y)
    if any(isinstance(value, list) for value in values):
        raise UsageError("support_y must be one label an example")
    return values


def _fits(got: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    without_ones = [side for side in got if side != 1] == [side for side in shape if side != 1]
    return without_ones or (len(shape) == 1 and math.prod(got) == shape[0])


def _tokens(values: Tensor, count: int, name: str) -> Tensor:
    if values.is_floating_point() or not bool(((values >= 0) & (values < count)).all()):
        raise UsageError(f"{name} must be tokens, whole numbers from 0 to {count - 1}")
    return values.long()


def _tensor(x: Array, name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    try:
        values = np.asarray(x)
        if values.dtype.kind not in "biuf":
            raise TypeError
        # A copy: an array that came with negative strides or is not writable makes no tensor.
        return torch.from_numpy(values.copy())
    except (TypeError, ValueError):
        raise UsageError(f"{name} is no array of numbers, or its rows differ in length") from None
