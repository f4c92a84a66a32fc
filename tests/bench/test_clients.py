"""The `clients` benchmark: memory, and seconds per round against the number of clients."""

import psutil
import pytest

from fedmeta.bench.clients import Footprint, drawing, measure, measure_footprint, memory, slope
from tests import processes


def test_a_small_population_is_run_to_the_end_in_a_process_of_its_own():
    measured = measure_footprint(clients=50, cohort=5, rounds=3)
    assert len(measured.rss_mib) == 3
    assert 0 < max(measured.rss_mib) <= measured.peak_mib
    assert measured.start_seconds > 0
    assert measured.round_ms > 0


def test_growth_compares_rounds_counted_from_one():
    footprint = Footprint(1.0, 1.0, 30.0, (10.0, 20.0, 30.0))
    assert footprint.growth(early=2, late=3) == 1.5


def test_memory_is_what_psutil_reads():
    now, peak = memory()
    assert now == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert peak >= now


def test_the_slope_is_the_power_by_which_seconds_grow() -> None:
    assert slope({n: 0.003 * n**1.2 for n in (10, 100, 1000)}) == pytest.approx(1.2)


def test_the_drawing_has_a_bar_for_each_size_and_longer_ones_for_longer_rounds() -> None:
    lines = drawing({10: 0.01, 1000: 0.1, 100_000: 10.0})
    bars = [line.count("#") for line in lines]
    assert bars == sorted(bars)
    assert bars[-1] == 40
    assert "100,000 clients" in lines[-1]
    assert "10 s a round" in lines[-1]


def test_each_size_is_run_in_its_own_process_with_all_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedmeta.bench.clients.subprocess", processes)
    found = measure((5, 10), runs=1)
    assert list(found) == [5, 10]
    assert all(one.round_ms > 0 and one.peak_mib > 0 for seen in found.values() for one in seen)
