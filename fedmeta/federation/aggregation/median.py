"""Coordinate-wise median."""

from collections.abc import Sequence

from typing_extensions import override

from fedmeta.federation.aggregation import StackingRule, Vectors, by_coordinate


class Median(StackingRule):
    """The median of each coordinate.

    Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates", Algorithm 1, option I (arXiv:1803.01498).
    """

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        return by_coordinate(vectors, _median)


def _median(ordered: Vectors) -> Vectors:
    """Return the coordinate-wise medians of ascending values ``[n, B]``."""
    middle: Vectors = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1].mean(axis=0)
    return middle
