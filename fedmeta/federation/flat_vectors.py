"""Arithmetic on stacks of flat updates, blockwise: orders by coordinate, distances, Krum's scores."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

_BLOCK = 1024
"""Coordinates that are worked on at once: those of some dozen updates fit a core's cache."""


def by_coordinate(rows: Sequence[Vectors], rule: Callable[[Vectors], Vectors]) -> Vectors:
    """Apply a rule to the values of each coordinate.

    Args:
        rows: n updates ``[D]``.
        rule: From values in rising order, ``[n, B]``, to one for each coordinate, ``[B]``.

    Returns:
        The result, ``[D]``. It does not depend on the order of the updates.
    """
    result = np.empty(rows[0].size)
    for block in _blocks(rows[0].size):
        # NumPy sorts short runs that lie together in memory much faster than columns.
        values = np.sort(np.stack([row[block] for row in rows], axis=1), axis=1)
        result[block] = rule(np.ascontiguousarray(values.T))
    return result


def _blocks(size: int) -> Iterator[slice]:
    return (slice(first, min(first + _BLOCK, size)) for first in range(0, size, _BLOCK))


def squared_distances(rows: Sequence[Vectors]) -> Vectors:
    """Return the squared Euclidean distances between n updates, ``[n, n]``.

    They are sums of squared differences: equal updates are at distance 0, and those that lie close to
    each other but far from 0 do not cancel, as in ``|x|^2 + |y|^2 - 2xy``.
    """
    count, size = len(rows), rows[0].size
    sums = torch.zeros(count * (count - 1) // 2, dtype=torch.float64)
    for block in _blocks(size):
        values = torch.from_numpy(np.stack([row[block] for row in rows]))
        sums += torch.nn.functional.pdist(values).square()
    distances = np.zeros((count, count))
    distances[np.triu_indices(count, 1)] = sums.numpy()
    return distances + distances.T


def krum_scores(distances: Vectors, malicious: int) -> Vectors:
    """Return Krum's scores: the sum of squared distances to the n - f - 2 nearest others, ``[n]``.

    Where that formula leaves none, the nearest one counts; Bulyan comes to this as its set shrinks.
    """
    count = len(distances)
    others = np.sort(distances[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    scores: Vectors = others[:, : max(1, count - malicious - 2)].sum(axis=1)
    return scores
