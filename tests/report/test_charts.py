"""Downsampled curves keep their extremes."""

import random

import pytest

from fedmeta.report.charts import Series, keep


@pytest.mark.parametrize("limit", [50, 500, 1500])
def test_of_ten_thousand_points_the_ends_and_every_spike_stay(limit: int) -> None:
    draw = random.Random(limit)
    values: list[float | None] = [draw.gauss(0, 1) for _ in range(10_000)]
    values[1234], values[7777] = 50.0, -50.0
    kept = keep([values], limit)
    assert len(kept) <= limit
    assert kept == sorted(set(kept))
    assert {0, 1234, 7777, 9999} <= set(kept)


def test_the_extremes_of_every_bucket_stay_not_only_those_of_the_whole() -> None:
    """Two waves a bucket: the drawn curve reaches 1 and -1 wherever the whole one does."""
    values = [(1.0, 0.0, -1.0, 0.0)[i % 4] for i in range(9_000)]
    kept = keep([values], 302)
    for first in range(0, 9_000, 90):
        seen = {values[i] for i in kept if first <= i < first + 90}
        assert {1.0, -1.0} <= seen


def test_the_band_s_extremes_stay_as_well() -> None:
    flat = [0.5] * 5_000
    high = [0.6] * 5_000
    high[3_210] = 0.99
    series = Series("s", list(range(5_000)), flat, [0.4] * 5_000, high).thinned(300)
    assert max(value or 0 for value in series.high or ()) == 0.99
    assert len(series.x) == len(series.y) == len(series.high or ()) <= 300


def test_a_gap_stays_a_gap() -> None:
    values: list[float | None] = [1.0] * 4_000
    values[2_000:2_004] = [None] * 4
    assert any(values[i] is None for i in keep([values], 100))


def test_a_short_curve_is_kept_whole() -> None:
    assert keep([[1.0, None, 3.0]], 3) == [0, 1, 2]
    assert keep([[]], 3) == []
    assert keep([], 3) == []
