"""Coordinate-wise trimmed mean."""

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.aggregation import StackingRule, Vectors, by_coordinate

_ROUNDING = 1e-9
"""Makes a trim of 0.29 cut 29 of 100, although 0.29 * 100 < 29 in floating point."""


class TrimmedMeanOptions(options.Options):
    """Options of `TrimmedMean`.

    Attributes:
        trim: Share of values that ``trimmed-mean`` drops at each end, rounded down to whole updates.
    """

    trim: float = Field(0.2, ge=0.0, lt=0.5)


class TrimmedMean(StackingRule):
    """The mean of each coordinate without the ``trim`` share of its values at each end.

    Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates", Algorithm 1, option II (arXiv:1803.01498).
    """

    Options = TrimmedMeanOptions
    options: TrimmedMeanOptions

    @override
    @classmethod
    def problem(cls, options: Any, quorum: int, cohort: int) -> str | None:
        if trimmed(options.trim, cohort):
            return None
        return (
            f"aggregation.trim = {options.trim:g} trims nothing from a cohort of {cohort}: "
            f"{_what_would_trim(options.trim, cohort)}"
        )

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        updates = len(vectors)
        cut = trimmed(self.options.trim, updates)
        if not cut:
            self.warn(
                f"round {self.round}: aggregation.trim = {self.options.trim:g} trims nothing from "
                f"{updates} updates: using their plain mean (logged once)"
            )

        def rule(ordered: Vectors) -> Vectors:
            mean: Vectors = ordered[cut : updates - cut].mean(axis=0)
            return mean

        return by_coordinate(vectors, rule)


def trimmed(trim: float, updates: int) -> int:
    """Return how many updates a trimmed mean drops at each end."""
    return int(trim * updates + _ROUNDING)


def _what_would_trim(trim: float, cohort: int) -> str:
    cures = []
    if cohort > 2:
        cures.append(f"set trim to at least {math.ceil(1e4 / cohort) / 1e4:g}")
    if trim:
        cures.append(f"set cohort to at least {math.ceil(1 / trim - _ROUNDING)}")
    return ", or ".join(cures)
