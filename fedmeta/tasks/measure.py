"""Direction and range of measures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOSS = "loss"
"""Name of the loss among the measures; every objective has it, and less of it is better."""


@dataclass(frozen=True)
class Measure:
    """Direction and range of a measure.

    Attributes:
        higher_is_better: Whether higher values are better.
        low: Smallest possible value; None: unbounded.
        high: Largest possible value; None: unbounded.
    """

    higher_is_better: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def worst(self) -> float | None:
        """The value of a diverged task; None: there is none, and such a mean is infinite."""
        return self.low if self.higher_is_better else self.high

    def bounds(self, rounding: float = 0.0) -> tuple[float, float]:
        """Return the smallest and largest value, widened by the share `rounding` of each."""
        low = -math.inf if self.low is None else self.low - rounding * abs(self.low)
        high = math.inf if self.high is None else self.high + rounding * abs(self.high)
        return low, high


def main_of(names: Iterable[str]) -> str:
    """Return the name of the main measure: the first besides the loss, or else the loss."""
    return next((name for name in names if name != LOSS), LOSS)
