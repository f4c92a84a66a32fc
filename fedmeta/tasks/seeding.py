"""Stateless random streams, keyed by the run's seed and a path."""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray

WORD = 2**32
"""One above the largest word of NumPy's seed sequences."""


def _seeds(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)]
    if max(words) < WORD:
        # Same words as a list, but faster, as NumPy would convert those one by one; a stream is made
        # for each client and round.
        return np.random.SeedSequence(np.array(words, dtype=np.uint32))
    return np.random.SeedSequence(words)


def stream(seed: int, *path: int | str) -> np.random.Generator:
    """Return the NumPy generator of `path`, such as ``stream(seed, "train", round, client)``.

    Streams of different paths are independent, so nothing needs to be saved to resume a run: the tasks
    of round 900 do not depend on whether rounds 1 to 899 ran in this process.
    """
    return np.random.Generator(np.random.PCG64(_seeds(seed, path)))


def torch_generator(seed: int, *path: int | str) -> torch.Generator:
    """Return the torch generator of `path`, for example to initialise models."""
    words = _seeds(seed, path).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def random_order(keys: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the indices that sort random keys in [0, inf] along the last axis, equal ones in order.

    NumPy's argsort orders equal keys as the processor's vectors do, so that tasks would differ between
    machines; in a thousand float32 keys a pair is equal once in thirty times.
    """
    # Places in the low bits make all keys different; positive floats are ordered as their bits are.
    ranked = keys.view(np.uint32).astype(np.uint64)
    ranked <<= np.uint64(32)
    ranked |= np.arange(keys.shape[-1], dtype=np.uint64)
    ranked.sort(axis=-1)
    return (ranked & np.uint64(WORD - 1)).astype(np.intp)
