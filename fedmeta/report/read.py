"""Reads the files of runs and comparisons for reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmeta.comparison.record import COMPARE, problem_of_compare
from fedmeta.config import Config
from fedmeta.config.trust import require_no_links
from fedmeta.errors import UsageError
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.rows import (
    CLIENTS,
    METRICS,
    TEST,
    ClientRow,
    LogFile,
    MetricsRow,
    Row,
    TestedRow,
    later_format,
)
from fedmeta.files import MOST_INFO, MOST_JSON, one_line, read_json, read_lines, reason
from fedmeta.options import nearest

_TOO_LARGE = 1e300
MOST_ROWS = 1_000_000
"""Rows of a log that are read; those of a thousand rounds of a thousand clients."""
_MOST_BYTES = 1 << 28
_RUN_FILES = ("config.toml", "run.json", "metrics.jsonl")


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
        metrics: Rows of ``metrics.jsonl``, up to the first damaged one; likewise the other logs.
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
    clients: list[ClientRow] = field(default_factory=list)
    test: list[TestedRow] = field(default_factory=list)

    @property
    def final(self) -> list[dict[str, Any]]:
        """The test clients' results by adaptation step; empty if there are none."""
        return steps_of(self.info.get("final"))


@dataclass(frozen=True)
class CompareFiles:
    """What a comparison's folder holds.

    Attributes:
        path: The folder.
        name: Its name.
        status: ``running``, ``finished``, ``failed``, ``interrupted``, ``killed`` or ``unreadable``.
        problem: What is damaged or of another version, in one line; None if all could be read.
        data: What ``compare.json`` says; empty if there is a problem.
    """

    path: Path
    name: str
    status: str
    problem: str | None
    data: dict[str, Any]


def is_run(path: Path) -> bool:
    """Tell whether a folder is a run's, however little is left of it."""
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
    parent = path.parent
    beside = [one.name for one in _folders(parent) if is_compare(one) or is_run(one)]
    hint = f": {nearest(path.name, beside)}" if beside else ""
    raise UsageError(f"no run or comparison at '{path}'{hint}")


def _folders(parent: Path) -> list[Path]:
    try:
        return [one for one in parent.iterdir() if one.is_dir()]
    except OSError:
        return []


def read_head(path: Path) -> RunFiles:
    """Read what tells about a run as a whole, and not its logs; see `read_run`."""
    folder = RunFolder(path)
    info, problem = _info(path)
    config = None
    try:
        config = folder.config
    except UsageError as error:
        problem = problem or _short(str(error), path)
    return RunFiles(path, path.name, folder.status, problem, config, info)


def read_run(path: Path) -> RunFiles:
    """Read a run's folder, also while a process writes to it.

    Damage is no error: what can be read is returned, and `RunFiles.problem` says what cannot.
    """
    head = read_head(path)
    if later_format(head.info):
        return head
    metrics, bad_metrics = _rows(path, METRICS)
    clients, bad_clients = _rows(path, CLIENTS)
    test, bad_test = _rows(path, TEST) if (path / TEST.name).exists() else ([], None)
    problem = head.problem or bad_metrics or bad_clients or bad_test
    return RunFiles(
        path, head.name, head.status, problem, head.config, head.info, metrics, clients, test
    )


def read_test(path: Path) -> list[TestedRow]:
    """Return the rows of a run's ``test.jsonl`` up to the first damaged one; empty if there is none."""
    return [] if later_format(RunFolder(path).info) else _rows(path, TEST)[0]


def read_compare(path: Path) -> CompareFiles:
    """Read a comparison's folder; damage is no error, and `CompareFiles.problem` names it."""
    data, problem = _object(path / COMPARE)
    problem = problem or problem_of_compare(data)
    if problem:
        return CompareFiles(path, path.name, "unreadable", problem, {})
    status = RunFolder(path).standing(data["status"])
    return CompareFiles(path, path.name, status, None, _killed(data) if status == "killed" else data)


def _killed(data: dict[str, Any]) -> dict[str, Any]:
    """Return a killed comparison's entries; nobody could say of what was running that it was killed."""

    def known(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "status": "killed" if entry["status"] == "running" else entry["status"]}

    arms = [known(arm) | {"runs": [known(run) for run in arm.get("runs", [])]} for arm in data["arms"]]
    return known(data) | {"arms": arms}


def number(row: Mapping[str, Any], key: str) -> float | None:
    """Return a row's finite number; None where there is none, whatever is there instead."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number may be too large for a float; nothing that a run writes is.
    return value if abs(value) < _TOO_LARGE else None


def steps_of(value: object) -> list[dict[str, Any]]:
    """Return the results by adaptation step of a field such as ``final``; what is none is left out."""
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


def _rows(folder: Path, log: LogFile[Row]) -> tuple[list[Row], str | None]:
    """Return the rows before the first damaged line, and what is wrong with that one."""
    path = folder / log.name
    rows: list[Row] = []
    size = 0
    try:
        for line in read_lines(path):
            size += len(line)
            if len(rows) == MOST_ROWS or size > _MOST_BYTES:
                return rows, f"{path.name} is too long: its first {len(rows):,} lines are read"
            rows.append(log.parse(line))
    except FileNotFoundError:
        return rows, f"{path.name} is missing"
    except OSError as error:
        return rows, f"{path.name}: {reason(error)}"
    except ValueError:
        return rows, f"{path.name}: line {len(rows) + 1} is damaged"
    return rows, None


def _short(message: str, path: Path) -> str:
    """Return a message without the path of the folder it is about, and with the file's name."""
    message = one_line(message.replace(f"{path}/", ""))
    return message if message.startswith("config.toml") else f"config.toml: {message}"
