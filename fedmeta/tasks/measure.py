"""What the values of a measure mean."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOSS = "loss"
"""Name of the loss among the measures; every objective has it, and less of it is better."""


@dataclass(frozen=True)
class Measure:
    """What a measure's values mean.

    Attributes:
        higher_is_better: Which way is better.
        low: Least value that it can have; None: any.
        high: Largest one.
    """

    higher_is_better: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def worst(self) -> float | None:
        """What a task that diverged counts as; None: there is no worst, and such a mean is infinite."""
        return self.low if self.higher_is_better else self.high

    def bounds(self, rounding: float = 0.0) -> tuple[float, float]:
        """Return the least and the largest value, widened by a share of each."""
        low = -math.inf if self.low is None else self.low - rounding * abs(self.low)
        high = math.inf if self.high is None else self.high + rounding * abs(self.high)
        return low, high


def main_of(names: Iterable[str]) -> str:
    """Return the main one of measures by name: the first beside the loss, and else that."""
    return next((name for name in names if name != LOSS), LOSS)
