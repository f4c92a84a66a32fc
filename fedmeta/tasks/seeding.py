"""Stateless random streams, keyed by the run's seed and a path."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

WORD = 2**32
"""One above the largest word of NumPy's seed sequences."""
TOGETHER = 32
"""Number of streams from which seeding them together is faster."""
_POOL = 4
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = 0xCA01F9DD, 0x4973F715


def _words(seed: int, path: tuple[int | str, ...]) -> list[int]:
    return [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)]


def _seeds(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = _words(seed, path)
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


def many_streams(seed: int, *path: int | str, last: Sequence[int]) -> list[np.random.Generator]:
    """Return the generators ``stream(seed, *path, number)`` of many last numbers, such as clients.

    From `TOGETHER` on they are seeded together, in a fraction of the time; these draw the same numbers,
    but cannot ``spawn``.
    """
    words = _words(seed, path)
    if len(last) < TOGETHER or max(*words, *last) >= WORD:
        return [stream(seed, *path, number) for number in last]
    shared = [np.array([word], dtype=np.uint32) for word in words]
    states = _generate_states([*shared, np.array(last, dtype=np.uint32)])
    return [np.random.Generator(np.random.PCG64(_State(state))) for state in states]  # type: ignore[arg-type]


class _State(ISeedSequence):
    """The result of a seed sequence.

    Args:
        words: What PCG64 asks it for, four uint64.
    """

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[Any]:  # noqa: ARG002
        return self.words


def _generate_states(entropy: list[NDArray[np.uint32]]) -> NDArray[np.uint64]:
    """Return ``SeedSequence(words).generate_state(4, np.uint64)`` for many lists of words, ``[C, 4]``.

    The algorithm of NumPy's `SeedSequence`, which is that of O'Neill 2015, "Developing a seed_seq
    Alternative", with NumPy's constants.

    Args:
        entropy: Each word, ``[1]`` if all share it or ``[C]``.
    """
    multiplier = _INIT_A

    def hashed(value: NDArray[np.uint32], factor: int) -> NDArray[np.uint32]:
        nonlocal multiplier
        value = value ^ np.uint32(multiplier)
        multiplier = multiplier * factor % WORD
        value = value * np.uint32(multiplier)
        return value ^ (value >> np.uint32(16))

    def mixed(x: NDArray[np.uint32], y: NDArray[np.uint32]) -> NDArray[np.uint32]:
        value: NDArray[np.uint32] = x * np.uint32(_MIX_L) - y * np.uint32(_MIX_R)
        return value ^ (value >> np.uint32(16))

    padded = [*entropy, *[np.zeros(1, dtype=np.uint32)] * (_POOL - len(entropy))]
    pool = [hashed(word, _MULT_A) for word in padded[:_POOL]]
    for source in range(_POOL):
        for place in range(_POOL):
            if source != place:
                pool[place] = mixed(pool[place], hashed(pool[source], _MULT_A))
    for word in padded[_POOL:]:
        pool = [mixed(own, hashed(word, _MULT_A)) for own in pool]
    multiplier = _INIT_B
    state = [hashed(pool[place % _POOL], _MULT_B) for place in range(2 * _POOL)]
    return np.stack(np.broadcast_arrays(*state), axis=1).view(np.uint64)


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
