"""How fast this machine can multiply matrices, and how much of that a computation needs."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = 1024


def gemm() -> Callable[[], object]:
    """Return a float32 matrix product of `gemm_flops` operations, to be timed beside other things."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    product = torch.empty(SIDE, SIDE)
    return lambda: torch.mm(left, right, out=product)


def gemm_flops() -> int:
    """Operations of one `gemm`: a multiplication and an addition per triple of indices."""
    return 2 * SIDE**3


def count_flops(function: Callable[[], object]) -> int:
    """Count the operations of the matrix products and convolutions that `function` runs."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())
