"""Low-rank adapters (LoRA): freezes a pretrained network and learns a small change to it."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """The weight ``W + scale * up @ down`` of a layer whose ``W`` is frozen.

    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021, "LoRA: Low-Rank Adaptation of Large Language
    Models", section 4.1: ``down [rank, in]`` starts Gaussian and ``up [out, rank]`` at 0, so that the
    network starts unchanged. A convolution's ``in`` is its input channels times its kernel's size.

    Args:
        weight: ``W [out, ...]``.
        rank: Rank of the change.
        scale: The paper's ``alpha / r``.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.scale = scale
        self.down = nn.Parameter(torch.randn(rank, columns, dtype=weight.dtype) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def add_adapters(
    network: nn.Module, rank: int = 4, scale: float = 1.0, names: Sequence[str] = ("*",)
) -> nn.Module:
    """Freeze a network, and add a `LowRank` adapter to its weight matrices and convolutions.

    The network is put into evaluation mode: its batch norms use their running statistics. Its parameters
    become constants of a fedmeta model, which are not sent, and only the adapters are learned. Recurrent
    layers keep their weights without adapters.

    Args:
        network: The network, which is changed.
        rank: Rank of each adapter.
        scale: Factor of each adapter; ``alpha / r`` in the paper.
        names: Shell-style patterns of the parameters to adapt, such as ``encoder.*.weight``.

    Returns:
        The same network.

    Raises:
        ValueError: If the rank is not positive, or no parameter that can be adapted has such a name.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")
    network.requires_grad_(requires_grad=False).eval()
    chosen = [
        (part, own)
        for path, part in list(network.named_modules())
        if not isinstance(part, nn.RNNBase)
        for own, value in part.named_parameters(recurse=False)
        if value.dim() > 1 and any(fnmatchcase(f"{path}.{own}".lstrip("."), one) for one in names)
    ]
    if not chosen:
        raise ValueError(f"no weight matrix of the network has a name that matches {', '.join(names)}")
    for part, own in chosen:
        parametrize.register_parametrization(part, own, LowRank(getattr(part, own), rank, scale))
    return network
