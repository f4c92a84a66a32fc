"""Stateless random streams, keyed by the run's seed and a path."""

import zlib

import numpy as np
import torch

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
