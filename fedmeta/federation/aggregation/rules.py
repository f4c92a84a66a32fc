"""Robust aggregation on flat vectors, as the papers define it."""

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


def median(ordered: Vectors) -> Vectors:
    """Return the medians of values in rising order, ``[n, B]``, by coordinate."""
    middle: Vectors = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1].mean(axis=0)
    return middle


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


def multi_krum(rows: Sequence[Vectors], malicious: int, keep: int) -> list[int]:
    """Return the places of the `keep` updates with the lowest scores, lowest first.

    Blanchard et al. 2017, section 4; with ``keep = 1`` it is Krum.
    """
    scores = _scores(squared_distances(rows), malicious)
    return [int(row) for row in np.argsort(scores, kind="stable")[:keep]]


def _scores(distances: Vectors, malicious: int) -> Vectors:
    """Return the sums of squared distances from each update to its n - f - 2 nearest others, ``[n]``.

    Where that formula leaves none, the nearest one counts; Bulyan comes to this as its set shrinks.
    """
    count = len(distances)
    others = np.sort(distances[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    scores: Vectors = others[:, : max(1, count - malicious - 2)].sum(axis=1)
    return scores


def bulyan(rows: Sequence[Vectors], malicious: int) -> Vectors:
    """Return Bulyan of Krum, El Mhamdi et al. 2018, section 4.

    First Krum selects ``theta = n - 2f`` updates, one at a time, each of those that are left; of equal
    scores the first wins. Then each coordinate is the mean of the ``beta = theta - 2f`` selected values
    that lie closest to their median, which is one of them: the lower middle one of an even number. Of
    two values that lie equally close, the lower one counts.

    Args:
        rows: n updates ``[D]``, n at least ``4f + 3``.
        malicious: f, at least 1.
    """
    distances = squared_distances(rows)
    left, selected = list(range(len(rows))), []
    for _ in range(len(rows) - 2 * malicious):
        best = int(np.argmin(_scores(distances[np.ix_(left, left)], malicious)))
        selected.append(left.pop(best))
    beta = len(selected) - 2 * malicious
    return by_coordinate(
        [rows[row] for row in selected], lambda ordered: _mean_about_median(ordered, beta)
    )


def _mean_about_median(ordered: Vectors, count: int) -> Vectors:
    """Return the mean of the `count` values closest to the median, by coordinate."""
    middle = ordered[(len(ordered) - 1) // 2]
    # Those values are neighbours in rising order: the first window that no step to the right betters.
    below, above = middle - ordered[:-count], ordered[count:] - middle
    first = (below > above).sum(axis=0)
    window = first + np.arange(count)[:, None]
    mean: Vectors = np.take_along_axis(ordered, window, axis=0).mean(axis=0)
    return mean
