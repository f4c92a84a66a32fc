"""The process measured by `population`: runs rounds and reports its memory after each."""

import resource
import sys
from pathlib import Path

from fedmeta.bench.rounds import small_workload
from fedmeta.federation import Plan, RoundRecord, Snapshot
from fedmeta.files import to_json
from fedmeta.training import simulate

_STATUS = Path("/proc/self/status")


def main() -> None:
    """Run ``clients cohort rounds`` of the command line; print a JSON line of bytes after each round."""
    clients, cohort, rounds = (int(argument) for argument in sys.argv[1:4])
    simulate(small_workload(clients), Plan(rounds=rounds, cohort=cohort), observer=_report)


def _report(record: RoundRecord, snapshot: Snapshot) -> None:  # noqa: ARG001 (an observer's signature)
    now, peak = memory()
    print(to_json({"round": record.round, "rss": now, "peak": peak}), flush=True)


def memory() -> tuple[int, int]:
    """Return the bytes that this process holds in memory, and the most that it has ever held.

    Where there is no ``/proc``, both are the peak.
    """
    if _STATUS.exists():
        # ru_maxrss would start from the parent's size, as it is kept through fork and exec.
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return peak, peak
