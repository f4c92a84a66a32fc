"""Batch norm with statistics per task, written out with its first and second derivatives."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-5


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, stat_rows: int | None = None, eps: float = EPS
) -> Tensor:
    """Normalise every channel of every task, then scale and shift it.

    Ioffe, Szegedy 2015, "Batch Normalization", Algorithm 1 (biased variance).

    Args:
        x: ``[T, N, C]``: N values of each channel of each task.
        weight: ``[T, C]``.
        bias: ``[T, C]``.
        stat_rows: Mean and variance are over the first `stat_rows` of the N values; None: over all.
        eps: Added to the variance.
    """
    if stat_rows is None:
        result: Tensor = _BatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
        return result
    seen = x[:, :stat_rows]
    mean = seen.mean(1, keepdim=True)
    variance = (seen - mean).square().mean(1, keepdim=True)
    scale = torch.rsqrt(variance + eps) * weight.unsqueeze(1)
    return (x - mean) * scale + bias.unsqueeze(1)


class _BatchNorm(torch.autograd.Function):
    """``y = weight * xhat + bias`` with ``xhat = (x - mean) * rstd``.

    Autograd of the plain expression keeps and rereads some twenty tensors of the size of `x`; closed
    forms halve the time of a second-order step, which is memory-bound.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
        xhat = centred.mul_(rstd)
        ctx.save_for_backward(x, weight, xhat, rstd)
        return torch.addcmul(bias.unsqueeze(1), xhat, weight.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *_BatchNormGradient.apply(grad, *ctx.saved_tensors), None  # type: ignore[no-untyped-call]


class _BatchNormGradient(torch.autograd.Function):
    """With ``P(v) = v - mean(v) - xhat * mean(v * xhat)``, which is its own adjoint:
    ``dx = weight * rstd * P(dy)``, ``dweight = sum(dy * xhat)``, ``dbias = sum(dy)`` (Ioffe, Szegedy
    2015, section 3). `x` is an input only so that it can be differentiated by.
    """

    @staticmethod
    def forward(  # noqa: PLR0913 (autograd wants them one by one)
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, xhat: Tensor, rstd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = grad.mean(1, keepdim=True)
        along = (grad * xhat).mean(1, keepdim=True)
        scale = rstd * weight.unsqueeze(1)
        dx = torch.addcmul(-scale * mean, grad, scale).addcmul_(xhat, scale * along, value=-1)
        ctx.save_for_backward(grad, weight, xhat, rstd, mean, along)
        rows = x.shape[1]
        return dx, (along * rows).squeeze(1), (mean * rows).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, dweight: Tensor, dbias: Tensor) -> Any:
        """Differentiate ``sum(u * dx) + sum(v * dweight) + sum(c * dbias)`` by grad, x and weight.

        It depends on `x` through `xhat`, whose derivative is ``rstd * P``, and through `rstd`, whose
        derivative is ``-rstd^2 * xhat / rows``. All means over rows reduce to five, so each result is
        one linear combination of u, grad and xhat with a coefficient per channel.
        """
        grad, weight, xhat, rstd, mean, along = ctx.saved_tensors
        v, c = dweight.unsqueeze(1), dbias.unsqueeze(1)
        mean_u = u.mean(1, keepdim=True)
        along_u = (u * xhat).mean(1, keepdim=True)
        inner = (u * grad).mean(1, keepdim=True) - mean_u * mean - along_u * along  # mean(u * P(grad))
        scale = rstd * weight.unsqueeze(1)
        by_grad = torch.addcmul(c - scale * mean_u, u, scale).addcmul_(xhat, v - scale * along_u)
        # h = -scale * (u * along + grad * along_u) + v * grad is the derivative by xhat.
        coefficient = v - scale * along_u
        mean_h = coefficient * mean - scale * along * mean_u
        along_h = coefficient * along - scale * along * along_u
        by_x = torch.addcmul(-rstd * mean_h, u, -rstd * scale * along)
        by_x.addcmul_(grad, rstd * coefficient)
        by_x.addcmul_(xhat, -rstd * (along_h + scale * inner))
        by_weight = (rstd * inner).squeeze(1) * u.shape[1]
        return by_grad, by_x, by_weight, None, None
