"""Fewer points of a long curve, such that nothing that stands out is lost."""

from collections.abc import Sequence

import numpy as np

LIMIT = 1500
"""Points of a curve that is drawn: more than a screen has pixels for."""


def keep(columns: Sequence[Sequence[float | None]], limit: int = LIMIT) -> list[int]:
    """Choose the points of a curve that are drawn.

    The points are cut into buckets of equal length. Of each bucket every column's lowest and highest
    value stay, and one missing value, so that a gap stays a gap; the first and the last point stay too.

    Args:
        columns: Values that share the points, such as a mean and the two ends of its band; None: a gap.
        limit: Most points to keep, up to rounding; a curve that is no longer than that is kept whole.

    Returns:
        Rising positions.
    """
    length = len(columns[0]) if columns else 0
    if length <= limit:
        return list(range(length))
    buckets = max((limit - 2) // (3 * len(columns)), 1)
    edges = np.linspace(0, length, buckets + 1).astype(int)
    kept = {0, length - 1}
    for column in columns:
        values = np.array([np.nan if value is None else value for value in column], dtype=float)
        kept.update(_standing_out(values, edges))
    return sorted(kept)


def _standing_out(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Return the lowest, the highest and a missing one of the values between each two edges."""
    first, end = edges[:-1, None], edges[1:, None]
    # Buckets differ in length by one at most: the shorter ones look at their last value twice.
    at = np.minimum(first + np.arange(int((end - first).max())), end - 1)
    missing = np.isnan(values)
    low = np.where(missing, np.inf, values)[at].argmin(axis=1)
    high = np.where(missing, -np.inf, values)[at].argmax(axis=1)
    gap = missing[at].argmax(axis=1)
    rows = np.arange(len(at))
    extremes = np.concatenate((at[rows, low], at[rows, high]))
    gaps = at[rows, gap]
    return [*extremes[~missing[extremes]].tolist(), *gaps[missing[gaps]].tolist()]
