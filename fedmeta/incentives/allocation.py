"""From scores to whole token units, without a rounding error to argue about."""

from collections.abc import Sequence
from fractions import Fraction


def allocate(scores: Sequence[float | Fraction], pot: int, cap: float | None = None) -> list[int]:
    """Share a pot in proportion to the positive scores, in whole units.

    Largest remainder (Hamilton's method): everyone gets the whole part of its exact share, and the units
    that are left go one each to the largest fractional parts, equal ones in the order of `scores`.
    Floats are read as the rationals that they are and all else is integer arithmetic, so the result is
    the same on every machine.

    A score of zero or less pays nothing. If no score is positive nothing is paid. A share above
    ``cap * pot`` is cut there, and what is cut off is paid to nobody: it stays with the sponsor.
    Handing it to the others would make one client's limit another's windfall.

    Args:
        scores: Higher is better; finite.
        pot: Units to share, at least 0.
        cap: Largest share of the pot for one; None: no limit.

    Returns:
        Units, in the order of `scores`. They sum to `pot`, or to less where the cap binds, or to 0.

    Raises:
        ValueError: If a score is not finite or the pot negative.
    """
    if pot < 0:
        raise ValueError(f"a pot of {pot} units cannot be shared")
    weights = [max(_exact(score), Fraction(0)) for score in scores]
    total = sum(weights, Fraction(0))
    if not total:
        return [0] * len(weights)
    shares = [pot * weight / total for weight in weights]
    units = [share.numerator // share.denominator for share in shares]
    left = pot - sum(units)
    by_remainder = sorted(range(len(units)), key=lambda i: (units[i] - shares[i], i))
    for place in by_remainder[:left]:
        units[place] += 1
    # The decimal that somebody wrote is meant, not the nearest binary fraction: 0.3 of 10 is 3.
    limit = pot if cap is None else int(Fraction(repr(cap)) * pot)
    return [min(unit, limit) for unit in units]


def _exact(score: float | Fraction) -> Fraction:
    try:
        return Fraction(score)
    except (ValueError, OverflowError):
        raise ValueError(f"a score of {score} cannot be paid") from None
