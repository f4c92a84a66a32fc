"""Replaces parts of a user's module that do not work per task or in second derivatives."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _WeightNorm

from fedmeta.learning.models.norm import batch_norm


class TaskBatchNorm(nn.Module):
    """Replaces a batch norm: shares its parameters, with statistics of the first `stat_rows`."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps = norm.eps
        self.stat_rows: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [B, C, ...]``."""
        values = x.unsqueeze(-1).flatten(2).transpose(1, 2)
        rows = None if self.stat_rows is None else self.stat_rows * values.shape[1]
        ones = x.new_ones(1, x.shape[1])
        weight = ones if self.weight is None else self.weight.unsqueeze(0)
        bias = ones - 1 if self.bias is None else self.bias.unsqueeze(0)
        result = batch_norm(values.flatten(0, 1).unsqueeze(0), weight, bias, rows, self.eps)
        return result.view_as(values).transpose(1, 2).reshape(x.shape)


class PlainWeightNorm(nn.Module):
    """``g v / |v|`` (Salimans, Kingma 2016, "Weight Normalization", equation 2), with plain operators.

    The second derivative of PyTorch's own operator by ``v`` is wrong.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return the weight."""
        return v * (g / torch.norm_except_dim(v, 2, self.dim))


def replace_parts(module: nn.Module) -> bool:
    """Replace parts that do not work per task or in second derivatives.

    Batch norms that use a batch's statistics become `TaskBatchNorm`. One in evaluation mode with running
    statistics, as in a frozen backbone, normalises by constants and stays.

    Returns:
        Whether a batch norm had running statistics, which are dropped.
    """
    kept = False
    for path, part in list(module.named_modules(remove_duplicate=False)):
        parent, _, child = path.rpartition(".")
        if isinstance(part, _WeightNorm):
            setattr(module.get_submodule(parent), child, PlainWeightNorm(part.dim))
        if not isinstance(part, _BatchNorm) or (part.running_mean is not None and not part.training):
            continue
        kept = kept or part.running_mean is not None
        setattr(module.get_submodule(parent), child, TaskBatchNorm(part))
    return kept
