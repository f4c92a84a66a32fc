"""Means over seeds, and how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

_UPPER = 0.975
"""Quantile of a two-sided interval of 95%."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: Over the seeds that have a value; None if none has.
        ci95: Half the 95% confidence interval; None below two values.
        values: By seed; None where there is none.
    """

    mean: float | None
    ci95: float | None
    values: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        return {"mean": self.mean, "ci95": self.ci95, "values": list(self.values)}


def estimate(values: Sequence[float | None]) -> Estimate:
    """Return the mean and its 95% interval by Student's t, ``t_{0.975, n-1} s / sqrt(n)``.

    Seeds are the independent repetitions: a run's tasks and clients share a trained model, so that their
    own scatter says nothing about training it anew.

    Args:
        values: By seed; None where a seed has no value.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(None, None, tuple(values))
    count = len(known)
    mean = math.fsum(known) / count
    if count == 1:
        return Estimate(mean, None, tuple(values))
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (count - 1))
    return Estimate(
        mean, float(stdtrit(count - 1, _UPPER)) * deviation / math.sqrt(count), tuple(values)
    )


def paired(values: Sequence[float | None], reference: Sequence[float | None]) -> Estimate:
    """Return the mean difference ``values - reference`` seed by seed, with its 95% interval.

    What a seed does to both, such as easier test tasks, cancels in its difference.
    """
    return estimate(
        [
            None if one is None or other is None else one - other
            for one, other in zip(values, reference, strict=True)
        ]
    )
