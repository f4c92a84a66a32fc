"""A run in a process of its own, and what that process held."""

import psutil
import pytest

from fedmeta.bench.population import Footprint, measure_footprint
from fedmeta.bench.population_child import memory


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
