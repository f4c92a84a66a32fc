"""Start time and memory, by the number of registered clients."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

from fedmeta.bench.result import Case, Goal, Result
from fedmeta.errors import RunError

CLIENTS = 100_000
COHORT = 1_000
EARLY, LATE = 5, 50
MIB = 2**20

_ENTRY = "from fedmeta.bench.population_child import main; main()"


@dataclass(frozen=True)
class Footprint:
    """What one process took for a whole run.

    Attributes:
        start_seconds: From before the process existed until its first round was done.
        round_ms: Median of the later rounds.
        peak_mib: Most memory that it ever held.
        rss_mib: Memory held after each round, the first one first.
    """

    start_seconds: float
    round_ms: float
    peak_mib: float
    rss_mib: tuple[float, ...]

    def growth(self, early: int, late: int) -> float:
        """Return how many times the memory after round `early` was held after round `late`."""
        return self.rss_mib[late - 1] / self.rss_mib[early - 1]


def measure_footprint(clients: int, cohort: int, rounds: int) -> Footprint:
    """Run federated MAML on sinusoids in a process of its own, so that its memory is nobody else's.

    Args:
        clients: Registered.
        cohort: Asked each round.
        rounds: At least 2.

    Raises:
        RunError: If the process failed.
    """
    # The child must find the same modules as this process does.
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


def _measure(case: Case, runs: int) -> Result:
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


CASE = Case(
    "population",
    "100,000 registered clients, 1,000 a round, MAML on sinusoids, 50 rounds in a fresh process "
    "(ours: one round)",
    1,
    _measure,
)
