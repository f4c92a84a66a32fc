"""A run on disk: its files, who may write to them, and how they are read back."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmeta.config import Config, seals, to_toml
from fedmeta.config.trust import require_no_links
from fedmeta.errors import UsageError
from fedmeta.experiment.checkpoint import CheckpointStore
from fedmeta.federation import StepResult
from fedmeta.files import (
    MOST_INFO,
    one_line,
    open_file,
    open_own,
    parse_json,
    read_json,
    read_lines,
    read_toml,
    reason,
    to_json,
    write_atomically,
)
from fedmeta.options import nearest, parse_options

LOGS = ("metrics.jsonl", "clients.jsonl")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "experiment": str,
    "run_id": str,
    "wall_seconds": (int, float),
    "versions": dict,
    "final": list,
}
"""Of entries of ``run.json``."""
_COLUMNS: dict[str, Mapping[str, type]] = {
    "metrics.jsonl": dict.fromkeys(
        ("round", "tasks", "cohort", "admitted", "bytes_down", "skipped"), int
    ),
    "clients.jsonl": dict.fromkeys(("round", "client", "tasks", "admitted"), int),
    "test.jsonl": {"client": int, "steps": list},
}
"""What every row has, and what of: nobody else's rows are added up otherwise."""


class RunFolder:
    """The folder of one run.

    ``config.toml`` is the resolved config, ``run.json`` the run's status and result,
    ``metrics.jsonl`` a line a round, ``clients.jsonl`` a line per client and round,
    ``test.jsonl`` a line per test client, and ``checkpoints/`` the state.

    Args:
        path: Where it is; `create` or `open` it rather than calling this.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = CheckpointStore(path / "checkpoints")

    @classmethod
    def create(cls, path: Path, config: Config, info: Mapping[str, Any]) -> "RunFolder":
        """Make a new run folder at `path`, whole or not at all.

        Args:
            path: Where; nothing may be there yet.
            config: The resolved config.
            info: First entries of ``run.json``.

        Raises:
            UsageError: If something is there already, or the place cannot be written.
        """
        taken = f"{path} exists already: choose another --out, or go on with `fedmeta resume {path}`"
        if path.exists():
            raise UsageError(taken)
        # Nobody can have put anything under a name that is drawn now.
        new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.mkdir()
            (new / "checkpoints").mkdir()
            text = to_toml(config).encode()
            write_atomically(new / "config.toml", text)
            seals.seal(new, text)
            for log in LOGS:
                (new / log).touch()
            cls(new).update_info(info)
            new.rename(path)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if path.exists():
                raise UsageError(taken) from None
            raise UsageError(f"cannot write to {path}: {error.strerror}") from None
        return cls(path)

    @classmethod
    def create_next(
        cls, parent: Path, name: str, config: Config, info: Mapping[str, Any]
    ) -> "RunFolder":
        """Make the first free one of ``<parent>/<name>-001``, ``-002``, and so on."""
        number = 1
        while True:
            path = parent / f"{name}-{number:03d}"
            if not path.exists():
                try:
                    return cls.create(path, config, info)
                except UsageError:
                    # Another process may have taken this number between the look and the making.
                    if not path.exists():
                        raise
            number += 1

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises:
            UsageError: If there is none at `path`, where the nearest run beside it is named, or a link
                in it leads out of it.
        """
        if not (path / "config.toml").is_file():
            beside = [p.parent.name for p in path.parent.glob("*/config.toml")]
            hint = f": {nearest(path.name, beside)}" if beside else ""
            raise UsageError(f"no run folder at '{path}'{hint}")
        require_no_links(path)
        return cls(path)

    @property
    def config(self) -> Config:
        """The resolved config of the run."""
        try:
            values = read_toml(self.path / "config.toml")
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path / 'config.toml'}: {reason(error)}") from None
        return parse_options(Config, values)

    def replace_config(self, config: Config) -> None:
        """Write a changed config, for a resume that may change some keys."""
        path, text = self.path / "config.toml", to_toml(config).encode()
        if seals.made_here(self.path):
            # Of both, so that a crash between the two files leaves a folder that was made here.
            seals.seal(self.path, path.read_bytes(), text)
        write_atomically(path, text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process alone; the lock ends with the process, however it ends.

        Raises:
            UsageError: If another process is running in the folder.
        """
        for place in ("checkpoints", "chain"):
            if (self.path / place).is_symlink():
                raise UsageError(
                    f"{self.path / place} is a link: a run writes into its own folder alone; "
                    "put what it leads to in its place"
                )
        try:
            lock = open_own(self.path / "run.lock", os.O_RDWR)
        except OSError as error:
            raise UsageError(f"cannot write to {self.path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = one_line(os.read(lock, 32).decode(errors="replace")) or "unknown"
                raise UsageError(f"{self.path} is in use by process {holder}: wait or stop it") from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(lock)

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says; empty if there is none yet or it cannot be read.

        An entry that a run goes on with is left out where it is of another kind than a run writes.
        """
        try:
            info = read_json(self.path / "run.json", MOST_INFO)
        except (OSError, ValueError):
            return {}
        known = info if isinstance(info, dict) else {}
        return {key: value for key, value in known.items() if isinstance(value, _KINDS.get(key, object))}

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed``, ``interrupted``, ``killed``, or ``unreadable``.

        A run that says it is running but that no process holds was killed: nobody could say so then.
        """
        return self.standing(str(self.info.get("status", "unreadable")))

    def standing(self, written: str) -> str:
        """Return how a run or comparison stands whose file says `written`."""
        return "killed" if written == "running" and not self.held() else written

    def held(self) -> bool:
        """Tell whether a process works in the folder."""
        try:
            with open_file(self.path / "run.lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def update_info(self, changes: Mapping[str, Any]) -> None:
        """Change some entries of ``run.json``."""
        text = to_json(self.info | dict(changes), indent=1)
        write_atomically(self.path / "run.json", text.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``; a last line that was cut off is left out.

        Raises:
            UsageError: If a line is damaged, or the file is missing; it is named.
        """
        return self._rows("metrics.jsonl")

    def clients(self) -> list[dict[str, Any]]:
        """Return the lines of ``clients.jsonl``; a last line that was cut off is left out.

        Raises:
            UsageError: If a line is damaged, or the file is missing; it is named.
        """
        return self._rows("clients.jsonl")

    def test(self) -> list[dict[str, Any]]:
        """Return the lines of ``test.jsonl``: a test client and its results by adaptation step each.

        Raises:
            UsageError: If a line is damaged, or the run was not tested yet.
        """
        return self._rows("test.jsonl")

    def write_test(self, results: Mapping[int, Sequence[StepResult]]) -> None:
        """Write ``test.jsonl``.

        Raises:
            OSError: If it cannot be written.
        """
        rows = (
            {"client": client, "steps": [asdict(step) for step in steps]}
            for client, steps in results.items()
        )
        write_atomically(
            self.path / "test.jsonl", b"".join(to_json(row).encode() + b"\n" for row in rows)
        )

    def _rows(self, log: str) -> list[dict[str, Any]]:
        path = self.path / log
        columns = _COLUMNS[log]
        rows: list[dict[str, Any]] = []
        try:
            for line in read_lines(path):
                row = parse_json(line)
                if not isinstance(row, dict) or not all(
                    isinstance(row.get(key), kind) for key, kind in columns.items()
                ):
                    raise ValueError
                rows.append(row)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except ValueError:
            raise UsageError(f"{path}: line {len(rows) + 1} is damaged") from None
        return rows
