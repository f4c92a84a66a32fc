"""Intervals over seeds: a case by hand, tables of Student's t, and their coverage."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedmeta.comparison.statistics import estimate, paired
from fedmeta.tasks import stream


def test_a_case_by_hand() -> None:
    """Of 1, 2, 3, 6: the mean is 3, the squares around it are 4 + 1 + 0 + 9 = 14, s = sqrt(14 / 3),
    and t of 3 degrees of freedom is 3.18245 in every table."""
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3.0
    assert found.ci95 == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2, rel=1e-6)
    assert found.values == (1.0, 2.0, 3.0, 6.0)


@pytest.mark.parametrize(
    ("seeds", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (31, 2.04227)]
)
def test_quantiles_are_those_of_the_printed_tables(seeds: int, quantile: float) -> None:
    values = [0.0] * (seeds - 1) + [1.0]
    deviation = math.sqrt(1 / seeds)  # sum of squares (n - 1) / n, divided by n - 1
    found = estimate(values).ci95
    assert found == pytest.approx(quantile * deviation / math.sqrt(seeds), rel=1e-5)


def test_differences_are_taken_seed_by_seed() -> None:
    """Both arms swing by 10 with the seed; their differences are 1, 2 and 3: mean 2, s = 1."""
    found = paired([11.0, 2.0, 23.0], [10.0, 0.0, 20.0])
    assert found.values == (1.0, 2.0, 3.0)
    assert found.mean == 2.0
    assert found.ci95 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_missing_seeds_are_left_out_and_one_value_has_no_interval() -> None:
    assert estimate([None, 4.0]).to_json() == {"mean": 4.0, "ci95": None, "values": [None, 4.0]}
    assert estimate([None, None]).mean is None
    assert paired([1.0, None, 5.0], [None, 1.0, 2.0]).values == (None, None, 3.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_truth_in_95_of_100(seeds: int) -> None:
    """The number of 4,000 repetitions that cover is binomial; the bounds leave out one in a million."""
    repetitions, mean = 4000, 0.7
    drawn = stream(0, "coverage", seeds).normal(mean, 0.05, size=(repetitions, seeds))
    found = [estimate(row) for row in drawn.tolist()]
    covered = sum(abs(one.mean - mean) <= one.ci95 for one in found if one.mean and one.ci95)
    low, high = binom.ppf([5e-7, 1 - 5e-7], repetitions, 0.95)
    assert low <= covered <= high
    assert np.isfinite(covered)
