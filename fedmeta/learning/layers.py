"""Linear, recurrent and convolutional layers with weights per task."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedmeta.learning.algorithm import Tensors


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """Draw a float32 tensor uniform in ``[-bound, bound)``."""
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def init_linear(name: str, fan_in: int, fan_out: int, generator: torch.Generator) -> Tensors:
    """Draw weight ``[in, out]`` and bias ``[out]`` uniform in ``±1/sqrt(fan_in)``.

    The rule of ``torch.nn.Linear`` (LeCun et al. 1998, "Efficient BackProp", 4.6: unit fan-in scaling).
    """
    bound = 1 / math.sqrt(fan_in)
    return {
        f"{name}.weight": uniform((fan_in, fan_out), bound, generator),
        f"{name}.bias": uniform((fan_out,), bound, generator),
    }


def linear(params: Tensors, name: str, x: Tensor) -> Tensor:
    """Compute ``x [T, B, in] @ weight [T, in, out] + bias [T, out]`` for every task at once."""
    return torch.baddbmm(params[f"{name}.bias"].unsqueeze(1), x, params[f"{name}.weight"])


def last_output(layers: Iterable[tuple[str, Tensor]]) -> Tensor:
    """Return the output of the last of some layers, without keeping those of the others."""
    (_, output), *_ = deque(layers, maxlen=1)
    return output


def init_norm(name: str, width: int) -> Tensors:
    """Return a norm's scale of 1 and shift of 0."""
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def init_lstm(name: str, inputs: int, hidden: int, generator: torch.Generator, read: int = 0) -> Tensors:
    """Draw weights ``[in, 4H]`` and ``[H + read, 4H]`` and the bias uniform in ``±1/sqrt(hidden)``.

    The rule of ``torch.nn.LSTM``; gates are in the order input, forget, cell, output. `read` is the size
    of what each step reads from a memory and feeds back with the hidden state.
    """
    bound = 1 / math.sqrt(hidden)
    return {
        f"{name}.weight": uniform((inputs, 4 * hidden), bound, generator),
        f"{name}.recurrent": uniform((hidden + read, 4 * hidden), bound, generator),
        f"{name}.bias": uniform((4 * hidden,), bound, generator),
    }


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell ``[..., H]`` from the gates' inputs ``[..., 4H]``.

    Hochreiter, Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """
    input_, forget, candidate, output = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(input_) * torch.tanh(candidate)
    return torch.sigmoid(output) * torch.tanh(cell), cell


class RecurrentWeight:
    """A weight per task that is used in each step of a sequence.

    Its gradient is one product over all steps. Autograd would make one for each step and add them up,
    which takes most of the time where there are few rows per task. It is differentiable once.

    Args:
        weight: ``[T, in, out]``.
    """

    def __init__(self, weight: Tensor) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._weight = weight
        # The compiler cannot follow the list, and needs no help to save memory.
        self._alone = weight.requires_grad and torch.is_grad_enabled()
        self._alone = self._alone and not torch.compiler.is_compiling()
        if self._alone:
            self._weight = _Deferred.apply(weight, self._seen)  # type: ignore[no-untyped-call]

    def __call__(self, bias: Tensor, x: Tensor) -> Tensor:
        """Compute ``bias [T, B, out] + x [T, B, in] @ weight``."""
        if not self._alone:
            return torch.baddbmm(bias, x, self._weight)
        result: Tensor = _Step.apply(bias, x, self._weight, self._seen)  # type: ignore[no-untyped-call]
        return result


class _Deferred(torch.autograd.Function):
    """Passes a weight through; its gradient is the sum over all `_Step`s that used it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.seen = seen
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> Any:  # noqa: ARG004 (steps return none)
        if not ctx.seen:
            return None, None
        inputs, grads = (torch.cat(parts, dim=1) for parts in zip(*ctx.seen, strict=True))
        ctx.seen.clear()
        return torch.bmm(inputs.mT, grads), None


class _Step(torch.autograd.Function):
    """``bias + x @ weight``, which leaves the weight's gradient to `_Deferred`."""

    @staticmethod
    def forward(
        ctx: Any, bias: Tensor, x: Tensor, weight: Tensor, seen: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.seen = seen
        return torch.baddbmm(bias, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        ctx.seen.append((x, grad))
        return grad, torch.bmm(grad, weight.mT), None, None


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve images with a 3x3 kernel per task, zero padding 1.

    Args:
        x: Channels-last images ``[T, B, H, W, C]``.
        weight: ``[T, 9 * C, D]``; rows by kernel row, kernel column, then channel.
        stride: Stride along both sides.

    Returns:
        ``[T, B, H', W', D]``.
    """
    tasks, batch = x.shape[:2]
    columns: Tensor = _Patches.apply(x.flatten(0, 1), stride)  # type: ignore[no-untyped-call]
    height, width = columns.shape[1:3]
    result = torch.bmm(columns.view(tasks, batch * height * width, -1), weight)
    return result.view(tasks, batch, height, width, -1)


def max_pool(images: Tensor) -> Tensor:
    """Max-pool ``[T, B, H, W, C]`` over 2x2 pixels; an odd last row or column is dropped."""
    tasks, batch, height, width, channels = images.shape
    window = (min(height, 2), min(width, 2))
    planes = images.reshape(tasks * batch, height, width, channels).permute(0, 3, 1, 2)
    pooled = F.max_pool2d(planes, window).permute(0, 2, 3, 1)
    return pooled.reshape(tasks, batch, *pooled.shape[1:])


class _Patches(torch.autograd.Function):
    """Copy the 3x3 patches of ``[N, H, W, C]`` to ``[N, H', W', 3, 3, C]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.stride = stride
        ctx.size = x.shape[1:3]
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        return padded.unfold(1, 3, stride).unfold(2, 3, stride).permute(0, 1, 2, 4, 5, 3).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _SumPatches.apply(grad, ctx.size, ctx.stride), None  # type: ignore[no-untyped-call]


class _SumPatches(torch.autograd.Function):
    """The adjoint of `_Patches`: add every patch back to its place.

    As each is the other's adjoint, both are differentiable any number of times.
    """

    @staticmethod
    def forward(ctx: Any, patches: Tensor, size: tuple[int, int], stride: int) -> Tensor:
        ctx.stride = stride
        summed: Tensor = sum_patches(patches, size[0], size[1], stride)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Patches.apply(grad, ctx.stride), None, None  # type: ignore[no-untyped-call]


# An opaque operation for the compiler, which takes many minutes for the nine overlapping sums.
@torch.library.custom_op("fedmeta::sum_patches", mutates_args=())
def sum_patches(patches: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Sum the patches ``[N, H', W', 3, 3, C]`` into images ``[N, height, width, C]``."""
    count, down, across, _, _, channels = patches.shape
    padded = patches.new_zeros(count, height + 2, width + 2, channels)
    for row in range(3):
        for column in range(3):
            rows = slice(row, row + stride * (down - 1) + 1, stride)
            columns = slice(column, column + stride * (across - 1) + 1, stride)
            padded[:, rows, columns] += patches[:, :, :, row, column]
    return padded[:, 1:-1, 1:-1].contiguous()


@sum_patches.register_fake
def _(patches: Tensor, height: int, width: int, stride: int) -> Tensor:  # noqa: ARG001
    return patches.new_empty(patches.shape[0], height, width, patches.shape[-1])


def with_one(features: Tensor) -> Tensor:
    """Append a feature that is 1, so that the last row of weights is the bias."""
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)


def preprocessed(values: Tensor, p: float) -> Tensor:
    """Return log-magnitude and sign, ``[..., 2]`` (Andrychowicz et al. 2016, appendix A).

    They are ``(log|x| / p, sign x)`` where ``|x| >= exp(-p)``, and ``(-1, exp(p) x)`` elsewhere.
    """
    least = math.exp(-p)
    size = values.abs().clamp(min=least).log() / p
    sign = torch.where(values.abs() >= least, values.sign(), values / least)
    return torch.stack([size, sign], -1)
