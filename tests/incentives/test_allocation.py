"""The pot is shared exactly: every unit is accounted for, and rounding favours no client."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmeta.incentives import allocate

scores = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40)
# Up to all that the ledger's 128 bits can count.
pots = st.integers(0, 10**14) | st.integers(0, 2**128 - 2)
caps = st.none() | st.floats(0.001, 1.0)


def test_shares_follow_the_scores() -> None:
    assert allocate([3.0, 1.0], 100) == [75, 25]


def test_units_that_are_left_go_to_the_largest_remainders() -> None:
    # Exact shares 4.7, 1.6, 1.58, 1.2, 0.61, 0.31: whole parts leave 3 units, for .7, .61 and .6.
    assert allocate([47_000, 16_000, 15_800, 12_000, 6_100, 3_100], 10) == [5, 2, 1, 1, 1, 0]


def test_equal_remainders_go_to_the_first_clients() -> None:
    assert allocate([1.0, 1.0, 1.0], 100) == [34, 33, 33]
    assert allocate([1.0, 1.0, 1.0], 101) == [34, 34, 33]


def test_negative_scores_are_paid_nothing_and_cost_the_others_nothing() -> None:
    assert allocate([-5.0, 1.0, 0.0, 1.0], 10) == [0, 5, 0, 5]


@pytest.mark.parametrize("none", [[], [0.0, -0.0], [-1.0, -1e300]])
def test_nothing_is_paid_where_no_client_has_a_positive_score(none: list[float]) -> None:
    assert allocate(none, 1000) == [0] * len(none)


def test_a_cap_cuts_rewards_and_does_not_redistribute_them() -> None:
    assert allocate([8.0, 1.0, 1.0], 100, cap=0.5) == [50, 10, 10]


def test_a_cap_is_the_decimal_that_was_written() -> None:
    # 0.3 as a float is a little less than 3/10, and 0.29 * 100 is 28.999999999999996.
    assert allocate([1.0, 0.0], 10, cap=0.3) == [3, 0]
    assert allocate([1.0, 0.0], 100, cap=0.29) == [29, 0]


def test_scores_are_read_as_what_they_are_not_as_they_print() -> None:
    # 0.1 + 0.2 is one bit more than 0.3: with a pot of one unit, that bit decides.
    assert allocate([0.3, 0.1 + 0.2], 1) == [0, 1]
    assert allocate([Fraction(3, 10), Fraction(1, 10) + Fraction(2, 10)], 1) == [1, 0]


@pytest.mark.parametrize("tiny", [5e-324, 1e-200])
def test_scores_of_any_size_are_shared(tiny: float) -> None:
    # Seven units of 2^100 by 1 : 6, though the ratio of the scores to the third is 10^308 and more.
    assert allocate([tiny, 6 * tiny, 0.0], 7 * 2**100) == [2**100, 6 * 2**100, 0]
    assert allocate([tiny, 1.7e308], 2**127) == [0, 2**127]
    assert allocate([tiny, tiny], 10) == [5, 5]
    assert allocate([1.7e308, 1.7e308, 1.7e308], 9) == [3, 3, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_a_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="cannot be paid"):
        allocate([1.0, bad], 10)


def test_a_negative_pot_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 units"):
        allocate([1.0], -1)


@given(scores, pots)
def test_all_of_the_pot_is_paid_or_none_of_it(scores: list[float], pot: int) -> None:
    assert sum(allocate(scores, pot)) == (pot if max(scores) > 0 else 0)


@given(scores, pots, caps)
def test_units_are_whole_never_negative_and_never_above_the_cap(
    scores: list[float], pot: int, cap: float | None
) -> None:
    units = allocate(scores, pot, cap)
    assert len(units) == len(scores)
    assert all(type(unit) is int and unit >= 0 for unit in units)
    assert all(unit == 0 for unit, score in zip(units, scores, strict=True) if score <= 0)
    if cap is not None:
        assert all(unit <= Fraction(repr(cap)) * pot for unit in units)


@given(scores, pots)
def test_every_award_is_within_a_unit_of_the_exact_share(scores: list[float], pot: int) -> None:
    positive = [max(Fraction(score), Fraction(0)) for score in scores]
    for unit, share in zip(allocate(scores, pot), positive, strict=True):
        if sum(positive):
            assert abs(unit - pot * share / sum(positive)) < 1


@given(scores, pots)
def test_a_higher_score_is_never_paid_less(scores: list[float], pot: int) -> None:
    ranked = sorted(zip(scores, allocate(scores, pot), strict=True))
    for (low, less), (high, more) in pairwise(ranked):
        # Equal scores may differ by the unit that only one of them can have.
        assert less <= more or (low == high and less - more == 1)


@given(scores, pots, caps, st.integers(-200, 200))
def test_only_the_proportions_of_scores_matter(
    scores: list[float], pot: int, cap: float | None, exponent: int
) -> None:
    scaled = [Fraction(score) * Fraction(2) ** exponent for score in scores]
    assert allocate(scaled, pot, cap) == allocate(scores, pot, cap)
