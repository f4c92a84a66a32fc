"""Reads the files of runs and comparisons for reports."""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedmeta.comparison.record import COMPARE, ArmRecord, CompareRecord, RunRecord, parse
from fedmeta.config import Config
from fedmeta.config.trust import require_no_links
from fedmeta.errors import DataError, UsageError
from fedmeta.experiment.folder import RunFolder, similar
from fedmeta.experiment.rows import (
    CLIENTS,
    METRICS,
    MOST_BYTES,
    MOST_ROWS,
    TEST,
    ClientRow,
    Limit,
    LogFile,
    MetricsRow,
    Row,
    TestedRow,
    later_format,
    measures_of,
)
from fedmeta.files import MOST_INFO, MOST_JSON, one_line, read_json, read_lines, reason
from fedmeta.report.log import MOST_PARSED, MOST_VALUES, Log, limit_of, too_long
from fedmeta.tasks.measure import Measure

if TYPE_CHECKING:
    from fedmeta.report.client_log import ClientLog

_TOO_LARGE = 1e300
_BYTES_OF_A_VALUE = 8
_MOST_OF_ALL = 2 * MOST_VALUES
"""Most values read from the test logs of all runs of a comparison."""
_RUN_FILES = ("config.toml", "run.json", "metrics.jsonl")


def _no_clients() -> "ClientLog":
    # It imports NumPy, which a list of runs does not need.
    from fedmeta.report.client_log import ClientLog

    return ClientLog()


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds.

    Attributes:
        path: The folder.
        name: Its name.
        status: ``running``, ``finished``, ``failed``, ``interrupted``, ``killed`` or ``unreadable``.
        problem: What is damaged or of another version, in one line; None if all could be read.
        config: The resolved config; None if it cannot be read.
        info: What ``run.json`` says; empty if it cannot be read.
        metrics: Rows of ``metrics.jsonl``, up to the first damaged one; the other logs too.
        clients: Rows of ``clients.jsonl``.
        test: Rows of ``test.jsonl``; empty where the run left none.
    """

    path: Path
    name: str
    status: str
    problem: str | None
    config: Config | None
    info: dict[str, Any]
    metrics: list[MetricsRow] = field(default_factory=list)
    clients: "ClientLog" = field(default_factory=_no_clients)
    test: list[TestedRow] = field(default_factory=list)

    @property
    def final(self) -> list[dict[str, Any]]:
        """The test clients' results by adaptation step; empty if there are none."""
        return steps_of(self.info.get("final"))

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """The measures of its tasks by name, the main one first."""
        return measures_of(self.info)


@dataclass(frozen=True)
class CompareFiles:
    """What a comparison's folder holds.

    Attributes:
        path: The folder.
        name: Its name.
        status: ``running``, ``finished``, ``failed``, ``interrupted``, ``killed`` or ``unreadable``.
        problem: What is damaged or of another version, in one line; None if all could be read.
        record: What ``compare.json`` says; None if there is a problem.
    """

    path: Path
    name: str
    status: str
    problem: str | None
    record: CompareRecord | None


def is_run(path: Path) -> bool:
    """Tell whether a folder holds at least one file of a run."""
    return any((path / name).exists() for name in _RUN_FILES)


def is_compare(path: Path) -> bool:
    """Tell whether a folder is a comparison's."""
    return (path / COMPARE).exists()


def require_folder(path: Path) -> Path:
    """Return the folder of a run or a comparison.

    Raises:
        UsageError: If `path` is neither, where the nearest one beside it is named, or a link in it
            leads out of it.
    """
    if is_compare(path) or is_run(path):
        require_no_links(path)
        return path
    raise UsageError(f"no run or comparison at '{path}'{similar(path, _runs_in)}")


def _runs_in(folder: Path) -> list[str]:
    return [one.name for one in _folders(folder) if is_compare(one) or is_run(one)]


def require_runs(root: Path) -> Path:
    """Return the folder of runs.

    Raises:
        UsageError: If it is none, or is itself a run or a comparison.
    """
    if not root.is_dir():
        raise UsageError(f"no folder of runs at '{root}': `fedmeta run quickstart` makes a run")
    if is_run(root) or is_compare(root):
        raise UsageError(
            f"'{root}' is itself a run: serve the folder above it, '{root.absolute().parent}'"
        )
    return root


def _folders(parent: Path) -> list[Path]:
    try:
        return [one for one in parent.iterdir() if one.is_dir()]
    except OSError:
        return []


def read_head(path: Path) -> RunFiles:
    """Read a run's config, ``run.json`` and status without its logs; see `read_run`."""
    folder = RunFolder(path)
    info, problem = _info(path)
    config = None
    try:
        config = folder.config
    except UsageError as error:
        problem = problem or _short(str(error), path)
    return RunFiles(path, path.name, folder.status, problem, config, info)


class RunReader:
    """Reads a run's folder, also while a process writes to it; each line of its logs is read once.

    Damage is not an error: what can be read is returned, and `RunFiles.problem` names the rest.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rounds: list[MetricsRow] = []
        self._replies = _no_clients()
        self._metrics = Log(path, METRICS, self._rounds.clear, self._rounds.append, MOST_VALUES)
        self._clients = Log(path, CLIENTS, self._restart, self._add, MOST_PARSED)

    def _restart(self) -> None:
        self._replies = _no_clients()

    def _add(self, row: ClientRow) -> None:
        self._replies.add(row)

    @property
    def values(self) -> int:
        """Values that were read so far; see `Limit`."""
        return self._metrics.values + self._clients.values

    def read(self) -> RunFiles:
        """Return what the folder holds now; its logs end with the same round."""
        head = read_head(self.path)
        if later_format(head.info):
            return head
        self._metrics.follow()
        bad_metrics = self._metrics.problem
        whole = head.status == "finished" or bad_metrics is not None
        # A round's clients are written before its metrics: those of the next round may be there.
        last = self._rounds[-1]["round"] if self._rounds else 0
        self._clients.follow(math.inf if whole else last)
        test, bad_test = list[TestedRow](), None
        if (self.path / TEST.name).exists():
            test, bad_test = _rows(self.path, TEST, limit_of(self.path, MOST_VALUES))
        return replace(
            head,
            problem=head.problem or bad_metrics or self._clients.problem or bad_test,
            metrics=list(self._rounds),
            # The columns of a log are worked out once: those of this copy.
            clients=copy(self._replies),
            test=test,
        )


def read_run(path: Path) -> RunFiles:
    """Read a run's folder once; see `RunReader`."""
    return RunReader(path).read()


class TestReader:
    """Reads ``test.jsonl`` of one run after the other, within a limit for all of them together.

    Attributes:
        problem: One line that says that the limit was reached; None: it was not.
    """

    __test__ = False

    def __init__(self) -> None:
        self._limit = Limit(_MOST_OF_ALL, 2 * MOST_ROWS, 2 * MOST_BYTES)
        self.problem: str | None = None

    def read(self, path: Path) -> list[TestedRow]:
        """Return the rows of a run up to the first damaged one; none if there are none, or too many."""
        if self.problem or not (path / TEST.name).exists():
            return []
        info = path / "run.json"
        self._limit.values -= info.stat().st_size // _BYTES_OF_A_VALUE if info.exists() else 0
        rows = [] if later_format(RunFolder(path).info) else _rows(path, TEST, self._limit)[0]
        if not self._limit.left:
            self.problem = f"The runs' {TEST.name} are too long: those of the first runs are read."
            return []
        return rows


def read_compare(path: Path) -> CompareFiles:
    """Read a comparison's folder; damage is not an error, and `CompareFiles.problem` names it."""
    data, problem = _object(path / COMPARE)
    if problem:
        return CompareFiles(path, path.name, "unreadable", problem, None)
    try:
        record = parse(data)
    except DataError as error:
        return CompareFiles(path, path.name, "unreadable", str(error), None)
    status = RunFolder(path).standing(record.status)
    return CompareFiles(path, path.name, status, None, _killed(record) if status == "killed" else record)


OneT = TypeVar("OneT", CompareRecord, ArmRecord, RunRecord)


def _killed(record: CompareRecord) -> CompareRecord:
    """Return the record of a killed comparison, with what was running marked as killed."""

    def known(one: OneT, **more: Any) -> OneT:
        status = "killed" if one.status == "running" else one.status
        return one.model_copy(update={"status": status, **more})

    return known(record, arms=[known(arm, runs=[known(run) for run in arm.runs]) for arm in record.arms])


def number(row: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number of a row; None if there is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number may be too large for a float; nothing that a run writes is.
    return value if abs(value) < _TOO_LARGE else None


def steps_of(value: object) -> list[dict[str, Any]]:
    """Return the results by adaptation step in a field such as ``final``; other values are left out."""
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, dict) and number(row, "step") is not None]


def _info(path: Path) -> tuple[dict[str, Any], str | None]:
    info, problem = _object(path / "run.json", MOST_INFO)
    if problem is None and not isinstance(info.get("status"), str):
        problem = "run.json: no status: it is half written, or of another version"
    return info, problem or _later(info)


def _later(info: Mapping[str, Any]) -> str | None:
    why = later_format(info)
    return f"run.json: {why}" if why else None


def _object(path: Path, most: int = MOST_JSON) -> tuple[dict[str, Any], str | None]:
    try:
        value = read_json(path, most)
    except FileNotFoundError:
        return {}, f"{path.name} is missing"
    except OSError as error:
        return {}, f"{path.name}: {reason(error)}"
    except ValueError:
        return {}, f"{path.name} is damaged"
    return (value, None) if isinstance(value, dict) else ({}, f"{path.name} is damaged")


def _rows(folder: Path, log: LogFile[Row], limit: Limit) -> tuple[list[Row], str | None]:
    """Return the rows before the first damaged line, and what is wrong with that one."""
    rows: list[Row] = []
    try:
        for line in read_lines(folder / log.name):
            if not limit.take(line):
                return rows, too_long(log.name, len(rows))
            rows.append(log.parse(line))
    except FileNotFoundError:
        return rows, f"{log.name} is missing"
    except OSError as error:
        return rows, f"{log.name}: {reason(error)}"
    except ValueError:
        return rows, f"{log.name}: line {len(rows) + 1} is damaged"
    return rows, None


def _short(message: str, path: Path) -> str:
    """Return a message without the path of the folder it is about, and with the file's name."""
    message = one_line(message.replace(f"{path}/", ""))
    return message if message.startswith("config.toml") else f"config.toml: {message}"
