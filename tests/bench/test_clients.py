"""Seconds a round against clients: the slope, the drawing, and a real measurement of small sizes."""

import pytest

from fedmeta.bench.clients import drawing, measure, slope
from tests import processes


def test_the_slope_is_the_power_by_which_seconds_grow() -> None:
    assert slope({n: 0.003 * n**1.2 for n in (10, 100, 1000)}) == pytest.approx(1.2)


def test_the_drawing_has_a_bar_for_each_size_and_longer_ones_for_longer_rounds() -> None:
    lines = drawing({10: 0.01, 1000: 0.1, 100_000: 10.0})
    bars = [line.count("#") for line in lines]
    assert bars == sorted(bars)
    assert bars[-1] == 40
    assert "100,000 clients" in lines[-1]
    assert "10 s a round" in lines[-1]


def test_each_size_is_run_in_a_process_of_its_own_that_asks_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedmeta.bench.population.subprocess", processes)
    found = measure((5, 10), runs=1)
    assert list(found) == [5, 10]
    assert all(one.round_ms > 0 and one.peak_mib > 0 for seen in found.values() for one in seen)
