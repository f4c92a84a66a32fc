"""Fair timing of functions in one process, and the machine's matrix-product rate."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedmeta.learning import keep_freed_memory

Clock = Callable[[], float]
SAMPLE_MS = 20.0
"""A sample repeats its function for about this long, so that caches and clocks settle."""


@dataclass(frozen=True)
class Timing:
    """Samples of the time of one call.

    Attributes:
        samples: Milliseconds per call, in the order measured.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the samples, in milliseconds."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile, in milliseconds."""
        return quartiles(self.samples)


def quartiles(values: tuple[float, ...] | list[float]) -> tuple[float, float]:
    """Return the lower and upper quartile; a single value is both."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def interleave(
    functions: Mapping[str, Callable[[], object]],
    runs: int,
    *,
    clock: Clock = time.perf_counter,
    sample_ms: float = SAMPLE_MS,
) -> dict[str, Timing]:
    """Time functions in turns, A B A B, so that disturbances of the machine affect all of them.

    Each is first called twice: to warm up (or compile), and to find how many calls fill a sample.

    Args:
        functions: Functions to time, by name, in order of turns.
        runs: Samples of each.
        clock: Returns seconds.
        sample_ms: Approximate minimum length of a sample.

    Returns:
        Milliseconds per call, by name.
    """
    calls: dict[str, int] = {}
    for name, function in functions.items():
        function()
        once = _seconds(function, 1, clock)
        calls[name] = max(1, math.ceil(sample_ms / 1e3 / once)) if once > 0 else 1
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            samples[name].append(_seconds(function, calls[name], clock) / calls[name] * 1e3)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _seconds(function: Callable[[], object], calls: int, clock: Clock) -> float:
    began = clock()
    for _ in range(calls):
        function()
    return clock() - began


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Compute as in a run: with `threads` torch threads in the block, and freed memory kept."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SIDE = 1024


def gemm() -> Callable[[], object]:
    """Return a function that computes a float32 matrix product of `gemm_flops` operations."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    product = torch.empty(SIDE, SIDE)
    return lambda: torch.mm(left, right, out=product)


def gemm_flops() -> int:
    """Return the operations of one `gemm`: a multiplication and an addition per triple of indices."""
    return 2 * SIDE**3


def count_flops(function: Callable[[], object]) -> int:
    """Return the operations of the matrix products and convolutions in `function`."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())
