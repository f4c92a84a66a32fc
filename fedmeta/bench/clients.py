"""Time of a round and memory, by the number of clients asked in it."""

import math
import statistics
from collections.abc import Mapping

from fedmeta.bench.population import Footprint, measure_footprint
from fedmeta.bench.result import Case, Goal, Result

COHORTS = (10, 100, 1_000, 10_000, 100_000)
TIMED = 20_000
"""Clients that answer while the clock runs, about; the first round, which warms up, is not timed."""
FEWEST, MOST = 3, 20
"""Rounds of a size, whatever that makes of `TIMED`."""
SLOPE_FROM = 1_000
"""Below so many clients a round's fixed costs hide the slope."""
BAR = 40


def slope(seconds: Mapping[int, float]) -> float:
    """Return the power of the number of clients by which a round's seconds grow, by least squares."""
    points = [(math.log(clients), math.log(value)) for clients, value in seconds.items()]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def drawing(seconds: Mapping[int, float]) -> list[str]:
    """Draw seconds a round against clients as bars, both on a logarithmic scale."""
    low, high = min(seconds.values()) / 2, max(seconds.values())
    return [
        f"{clients:>9,} clients {'#' * round(BAR * math.log(value / low) / math.log(high / low)):{BAR}} "
        f"{value:.3g} s a round"
        for clients, value in seconds.items()
    ]


def measure(cohorts: tuple[int, ...], runs: int) -> dict[int, list[Footprint]]:
    """Run all clients of federations of several sizes, each in a process of its own."""
    rounds = {n: max(FEWEST, min(MOST, TIMED // n)) for n in cohorts}
    return {n: [measure_footprint(n, n, rounds[n]) for _ in range(runs)] for n in cohorts}


def _measure(case: Case, runs: int) -> Result:
    found = measure(COHORTS, runs)
    seconds = {n: statistics.median(f.round_ms for f in seen) / 1e3 for n, seen in found.items()}
    peaks = {n: max(f.peak_mib for f in seen) for n, seen in found.items()}
    steep = {n: value for n, value in seconds.items() if n >= SLOPE_FROM}
    most = COHORTS[-1]
    added = (peaks[most] - peaks[SLOPE_FROM]) * 1024 / (most - SLOPE_FROM)
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=seconds[most] * 1e3,
        rival_ms=None,
        rival=None,
        ratio_is=None,
        threads=1,
        runs=runs,
        goals=(Goal(f"MiB at the peak, {most:,} clients", peaks[most], 1024.0, "at most"),),
        details={
            f"slope from {SLOPE_FROM:,} clients on (1: linear)": slope(steep),
            "ms a client at the most clients": seconds[most] * 1e3 / most,
            "KiB more at the peak with each client": added,
            **{f"seconds a round, {n:,} clients": value for n, value in seconds.items()},
            **{f"MiB at the peak, {n:,} clients": value for n, value in peaks.items()},
        },
        drawing=tuple(drawing(seconds)),
    )


CASE = Case(
    "clients",
    "rounds that ask all of 10 to 100,000 clients, MAML on sinusoids, each size in a fresh process "
    "(ours: one round of 100,000)",
    1,
    _measure,
)
