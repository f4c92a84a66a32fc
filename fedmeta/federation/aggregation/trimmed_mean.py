"""The mean by coordinate without the extreme values."""

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.aggregation import StackingRule, Vectors, by_coordinate

_ROUNDING = 1e-9
"""So that a trim of 0.29 cuts 29 of 100, though 0.29 * 100 is a little less in floating point."""


class TrimmedMeanOptions(options.Options):
    """Options of `TrimmedMean`.

    Attributes:
        trim: Share of the values that ``trimmed-mean`` leaves out at either end, rounded down to whole
            updates.
    """

    trim: float = Field(0.2, ge=0.0, lt=0.5)


class TrimmedMean(StackingRule):
    """The mean of each coordinate without the ``trim`` share of its values at either end.

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
            f"aggregation.trim = {options.trim:g} trims nobody of a cohort of {cohort}: "
            f"{_what_would_trim(options.trim, cohort)}"
        )

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        updates = len(vectors)
        cut = trimmed(self.options.trim, updates)
        if not cut:
            self.warn(
                f"round {self.round}: aggregation.trim = {self.options.trim:g} trims nobody of "
                f"{updates} updates: this is their plain mean (said once)"
            )

        def rule(ordered: Vectors) -> Vectors:
            mean: Vectors = ordered[cut : updates - cut].mean(axis=0)
            return mean

        return by_coordinate(vectors, rule)


def trimmed(trim: float, updates: int) -> int:
    """Return how many updates a trimmed mean leaves out at either end."""
    return int(trim * updates + _ROUNDING)


def _what_would_trim(trim: float, cohort: int) -> str:
    cures = []
    if cohort > 2:
        cures.append(f"set trim to at least {math.ceil(1e4 / cohort) / 1e4:g}")
    if trim:
        cures.append(f"set cohort to at least {math.ceil(1 / trim - _ROUNDING)}")
    return ", or ".join(cures)
