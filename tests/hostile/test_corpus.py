"""Every hostile file is read correctly or refused in one line, quickly and with bounded memory."""

import resource
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign
from tests.experiment.helpers import TINY
from tests.hostile.corpus import Case, cases
from tests.hostile.long_files import long_comparisons, long_logs
from tests.hostile.readers import Reader
from tests.report.made import make

SECONDS = 10
GIGABYTE = 1 << 20  # in KiB


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an incentive rule: its clients have scores and rewards."""
    rule = {"incentives": {"rule": "equal"}}
    return make(tmp_path_factory.mktemp("hostile") / "good", TINY | {"rounds": 3} | rule)


@pytest.fixture(scope="session")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    one = Journal(path)
    one.found(Campaign(bytes(32), bytes(32), 10**6, 10**9))
    one.close()
    return path.read_bytes()


def _too_long(_: int, __: FrameType | None) -> None:
    raise TimeoutError


def reset_peak() -> int:
    """Reset the process's peak memory; return the memory in use, in KiB."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the peak memory since the reset in KiB; without a reset, that since the start."""
    with suppress(OSError):
        found = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        return int(found.split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def problems(reader: Reader, found: list[Case]) -> list[str]:
    """Return a line about each case that was neither read nor refused properly."""
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        return _problems(reader, found)
    finally:
        signal.signal(signal.SIGALRM, before)


def _problems(reader: Reader, found: list[Case]) -> list[str]:
    told = []
    for case in found:
        reader.clear()
        before = reset_peak()
        # Wall time, as a blocked reader uses no CPU time; twelvefold, as the machine may be busy.
        signal.alarm(12 * SECONDS)
        try:
            reader.read(case.kind, case.make)
        except BaseException as error:
            told.append(f"{case.kind}, {case.name}: {type(error).__name__}: {str(error)[:300]}")
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            signal.alarm(0)
        if reader.seconds > SECONDS:
            told.append(f"{case.kind}, {case.name}: {reader.seconds:.1f} s")
        grown = peak() - before
        if grown > GIGABYTE:
            told.append(f"{case.kind}, {case.name}: {grown >> 10} MiB")
    reader.clear()
    return told


SLOW = (
    "120,000 members",
    "a member of 400 MB",
    "PNG of 9,000 x 9,000, complete",
    "100,000 unknown keys",
)
"""Each takes seconds to build or to read; the others take milliseconds."""
REPORTED = (
    "run.json",
    "metrics.jsonl",
    "clients.jsonl",
    "test.jsonl",
    "explanations.json",
    "streams.json",
    "compare",
)
"""Kinds for which a report is written and a live page rendered, most of the test's work."""


def is_fast(case: Case) -> bool:
    """Return whether the quick tests include a case: all but `SLOW`, and of `REPORTED` a part.

    That part is the valid files, and a quarter of the others, another one for each kind.
    """
    if case.name in SLOW:
        return False
    valid = case.name in ("good", "the largest allowed", "the longest allowed")
    return case.kind not in REPORTED or valid or not sum((case.kind + case.name).encode()) % 4


def test_every_hostile_file_is_read_correctly_or_refused_in_one_line(
    run: Path, journal: bytes, tmp_path: Path
) -> None:
    found = cases(run, journal)
    assert len(found) > 200
    assert not problems(Reader(run, tmp_path / "scratch"), [case for case in found if is_fast(case)])


@pytest.mark.slow
def test_every_slow_hostile_file_is_read_correctly_or_refused_in_one_line(
    run: Path, journal: bytes, tmp_path: Path
) -> None:
    slow = [case for case in cases(run, journal) if not is_fast(case)]
    assert not problems(Reader(run, tmp_path / "scratch"), slow)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*long_logs(), *long_comparisons()], ids=lambda case: case.name)
def test_oversized_files_are_read_correctly_or_refused_in_one_line(
    case: Case, run: Path, tmp_path: Path
) -> None:
    assert not problems(Reader(run, tmp_path / "scratch"), [case])
