"""Startup time, round time and memory, by the number of registered clients and of sampled clients."""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fedmeta.bench.result import Case, Goal, Result
from fedmeta.bench.rounds import small_workload
from fedmeta.errors import RunError
from fedmeta.federation import Plan, RoundRecord, Snapshot
from fedmeta.files import to_json
from fedmeta.training import simulate

CLIENTS = 100_000
COHORT = 1_000
EARLY, LATE = 5, 50
MIB = 2**20

_ENTRY = "from fedmeta.bench.clients import main; main()"


@dataclass(frozen=True)
class Footprint:
    """Time and memory of one process for a whole run.

    Attributes:
        start_seconds: From before the process's start to the end of its first round.
        round_ms: Median of the later rounds.
        peak_mib: Peak memory.
        rss_mib: Resident memory after each round, in order.
    """

    start_seconds: float
    round_ms: float
    peak_mib: float
    rss_mib: tuple[float, ...]

    def growth(self, early: int, late: int) -> float:
        """Return the memory after round `late` divided by that after round `early`."""
        return self.rss_mib[late - 1] / self.rss_mib[early - 1]


def measure_footprint(clients: int, cohort: int, rounds: int) -> Footprint:
    """Run federated MAML on sinusoids in its own process, to measure its memory.

    Args:
        clients: Number of registered clients.
        cohort: Clients per round.
        rounds: At least 2.

    Raises:
        RunError: If the process failed.
    """
    # The child must find the same modules as this process.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _ENTRY, str(clients), str(cohort), str(rounds)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as child:
        assert child.stdout is not None
        lines = []
        times = []
        for line in child.stdout:
            lines.append(json.loads(line))
            times.append(time.perf_counter() - began)
    if child.returncode or len(lines) != rounds:
        raise RunError(f"bench: the process of {clients} clients failed (exit {child.returncode})")
    steps = [later - earlier for earlier, later in pairwise(times)]
    return Footprint(
        start_seconds=times[0],
        round_ms=statistics.median(steps) * 1e3,
        peak_mib=lines[-1]["peak"] / MIB,
        rss_mib=tuple(line["rss"] / MIB for line in lines),
    )


def _measure_registered(case: Case, runs: int) -> Result:
    seen = [measure_footprint(CLIENTS, COHORT, LATE) for _ in range(runs)]
    peak = max(footprint.peak_mib for footprint in seen)
    start = statistics.median(footprint.start_seconds for footprint in seen)
    growth = max(footprint.growth(EARLY, LATE) for footprint in seen)
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=statistics.median(footprint.round_ms for footprint in seen),
        rival_ms=None,
        rival=None,
        ratio_is=None,
        threads=1,
        runs=runs,
        goals=(
            Goal("seconds until round 1 is done", start, 5.0, "at most"),
            Goal("MiB at the peak", peak, 1024.0, "at most"),
            Goal(f"memory, round {LATE} over round {EARLY}", growth, 1.05, "at most"),
        ),
        details={
            f"MiB after round {EARLY}": max(footprint.rss_mib[EARLY - 1] for footprint in seen),
            f"MiB after round {LATE}": max(footprint.rss_mib[LATE - 1] for footprint in seen),
        },
    )


REGISTERED = Case(
    "population",
    "100,000 registered clients, 1,000 a round, MAML on sinusoids, 50 rounds in a fresh process "
    "(ours: one round)",
    1,
    _measure_registered,
)


_STATUS = Path("/proc/self/status")


def main() -> None:
    """Run ``clients cohort rounds`` of the command line; print a JSON line of bytes after each round."""
    clients, cohort, rounds = (int(argument) for argument in sys.argv[1:4])
    simulate(small_workload(clients), Plan(rounds=rounds, cohort=cohort), observer=_report)


def _report(record: RoundRecord, snapshot: Snapshot) -> None:  # noqa: ARG001 (an observer's signature)
    now, peak = memory()
    print(to_json({"round": record.round, "rss": now, "peak": peak}), flush=True)


def memory() -> tuple[int, int]:
    """Return this process's resident and peak memory in bytes.

    Without ``/proc`` both are the peak.
    """
    if _STATUS.exists():
        # ru_maxrss would include the parent's size, as it survives fork and exec.
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return peak, peak


COHORTS = (10, 100, 1_000, 10_000, 100_000)
TIMED = 20_000
"""About how many client replies are timed; the first round, a warm-up, is not."""
FEWEST, MOST = 3, 20
"""Bounds of the number of rounds, whatever `TIMED` gives."""
SLOPE_FROM = 1_000
"""With fewer clients a round's fixed costs hide the slope."""
BAR = 40


def slope(seconds: Mapping[int, float]) -> float:
    """Return the exponent with which a round's seconds grow in the number of clients (least squares)."""
    points = [(math.log(clients), math.log(value)) for clients, value in seconds.items()]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def drawing(seconds: Mapping[int, float]) -> list[str]:
    """Draw seconds per round against clients as bars, both on a logarithmic scale."""
    low, high = min(seconds.values()) / 2, max(seconds.values())
    return [
        f"{clients:>9,} clients {'#' * round(BAR * math.log(value / low) / math.log(high / low)):{BAR}} "
        f"{value:.3g} s a round"
        for clients, value in seconds.items()
    ]


def measure(cohorts: tuple[int, ...], runs: int) -> dict[int, list[Footprint]]:
    """Run federations of several sizes with all their clients, each in its own process."""
    rounds = {n: max(FEWEST, min(MOST, TIMED // n)) for n in cohorts}
    return {n: [measure_footprint(n, n, rounds[n]) for _ in range(runs)] for n in cohorts}


def _measure_asked(case: Case, runs: int) -> Result:
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


ASKED = Case(
    "clients",
    "rounds that ask all of 10 to 100,000 clients, MAML on sinusoids, each size in a fresh process "
    "(ours: one round of 100,000)",
    1,
    _measure_asked,
)
