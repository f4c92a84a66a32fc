"""Means and confidence intervals over seeds, or over the clients of one seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedmeta.federation import clustered_half_width


@dataclass(frozen=True)
class Estimate:
    """A mean over independent repetitions.

    Attributes:
        mean: Over those that have a value; None if none has, or if one is not finite.
        ci95: Half the 95% confidence interval; None below two values.
        values: By repetition; None where there is no finite one.
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
        values: By seed; None where a seed has no value, as its run is not finished. One that is not
            finite, as the loss of a run whose tasks diverged, is not left out: there is no mean then.
    """
    known = [value for value in values if value is not None]
    finite = tuple(None if value is None or not math.isfinite(value) else value for value in values)
    if not known or len(known) > sum(value is not None for value in finite):
        return Estimate(None, None, finite)
    mean = math.fsum(known) / len(known)
    half = clustered_half_width([(value - mean) / len(known) for value in known])
    return Estimate(mean, half, finite)


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
