"""`RunFolder`: a run's files on disk, with locking."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmeta.config import Config, seals, to_toml
from fedmeta.config.identity import as_before
from fedmeta.config.toml import in_file
from fedmeta.config.trust import require_no_links
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment.rows import (
    CLIENTS,
    FORMAT,
    LOGS,
    METRICS,
    TEST,
    ClientRow,
    MetricsRow,
    TestedRow,
    later_format,
    tested_rows,
)
from fedmeta.files import (
    MOST_INFO,
    one_line,
    open_file,
    open_own,
    parse_toml,
    read_json,
    read_toml_text,
    reason,
    to_json,
    write_atomically,
)
from fedmeta.options import nearest, parse_options

if TYPE_CHECKING:
    from fedmeta.experiment.checkpoint import CheckpointStore
    from fedmeta.federation.records import StepResult

_KINDS: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "experiment": str,
    "run_id": str,
    "wall_seconds": (int, float),
    "versions": dict,
    "final": list,
    "format": int,
}
"""Types of entries of ``run.json``."""


def similar(path: Path, runs_in: Callable[[Path], Iterable[str]]) -> str:
    """Return the end of a message that `path` is not a run: the run that was probably meant.

    Args:
        path: What was given.
        runs_in: Returns the names of the runs in a folder.
    """
    if first := min(runs_in(path), default=""):
        return f": it is a folder of runs; name one, such as '{path / first}'"
    if path.parent.name in runs_in(path.parent.parent):
        return f": did you mean '{path.parent}'?"
    for place in (path.parent, Path("runs")) if path.parent == Path() else (path.parent,):
        if names := list(runs_in(place)):
            prefix = "" if place == Path() else f"{place}/"
            hint = nearest(path.name, names, prefix)
            listed = nearest("", [prefix + name for name in names])
            return f": {hint if hint.startswith('did you mean') else listed}"
    return ""


def _runs_in(folder: Path) -> list[str]:
    return [config.parent.name for config in folder.glob("*/config.toml")]


class RunFolder:
    """The folder of one run.

    ``config.toml`` is the resolved config, ``run.json`` the run's status and result, ``metrics.jsonl``
    has a line per round, ``clients.jsonl`` a line per client and round, ``test.jsonl`` a line per test
    client, and ``checkpoints/`` the state.

    Args:
        path: Its path; use `create` or `open` rather than this constructor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def checkpoints(self) -> "CheckpointStore":
        """The state after each of the last rounds; only these files of the folder need torch."""
        from fedmeta.experiment.checkpoint import CheckpointStore

        return CheckpointStore(self.path / "checkpoints")

    @classmethod
    def create(cls, path: Path, config: Config, info: Mapping[str, Any]) -> "RunFolder":
        """Make a new run folder at `path`, atomically.

        Args:
            path: The path, which must not exist yet.
            config: The resolved config.
            info: First entries of ``run.json``.

        Raises:
            UsageError: If the path exists already or cannot be written.
        """
        require_free(path)
        # A random name, so no other process can have put anything there.
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
            cls(new).update_info({**info, "format": FORMAT})
            new.rename(path)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            require_free(path)  # another process may have made one
            raise UsageError(f"cannot write to {path}: {error.strerror}") from None
        return cls(path)

    @classmethod
    def create_next(
        cls, parent: Path, name: str, config: Config, info: Mapping[str, Any]
    ) -> "RunFolder":
        """Make the first free folder of ``<parent>/<name>-001``, ``-002``, and so on."""
        number = 1
        while True:
            path = parent / f"{name}-{number:03d}"
            if not path.exists():
                try:
                    return cls.create(path, config, info)
                except UsageError:
                    # Another process may have taken this number in the meantime.
                    if not path.exists():
                        raise
            number += 1

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises:
            UsageError: If there is none at `path` (the message names the most similar run next to it), a
                link leads out of it, or a later version wrote it.
        """
        if not (path / "config.toml").is_file():
            raise UsageError(f"no run folder at '{path}'{similar(path, _runs_in)}")
        require_no_links(path)
        folder = cls(path)
        folder._require_known_format()
        return folder

    @property
    def config(self) -> Config:
        """The resolved config of the run."""
        path = self.path / "config.toml"
        try:
            text = read_toml_text(path)
            values = as_before(Config, parse_toml(text))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: {reason(error)}") from None
        try:
            return parse_options(Config, values)
        except ConfigError as error:
            raise in_file(path, text, error) from None

    def replace_config(self, config: Config) -> None:
        """Write a changed config, for a resume that changes some keys."""
        path, text = self.path / "config.toml", to_toml(config).encode()
        if seals.made_here(self.path):
            # Seal both versions, so that a crash between the two writes leaves a folder made here.
            seals.seal(self.path, path.read_bytes(), text)
        write_atomically(path, text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process; the lock ends with the process, however it ends.

        Raises:
            UsageError: If another process is running in the folder.
        """
        for place in ("checkpoints", "chain"):
            if (self.path / place).is_symlink():
                raise UsageError(
                    f"{self.path / place} is a link: a run only writes into its own folder; replace the "
                    "link with its target"
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
        """The entries of ``run.json``; empty if there is none yet or it cannot be read.

        Entries of the wrong type that a resumed run would use are left out.
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

        A run whose file says that it is running, but that no process holds, was killed.
        """
        return self.standing(str(self.info.get("status", "unreadable")))

    def standing(self, written: str) -> str:
        """Return the status of a run or comparison whose file says `written`."""
        return "killed" if written == "running" and not self.held() else written

    def held(self) -> bool:
        """Return whether a process is using the folder."""
        try:
            with open_file(self.path / "run.lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def update_info(self, changes: Mapping[str, Any]) -> None:
        """Update entries of ``run.json``."""
        text = to_json(self.info | dict(changes), indent=1)
        write_atomically(self.path / "run.json", text.encode())

    def metrics(self) -> list[MetricsRow]:
        """Return the rows of ``metrics.jsonl``.

        Raises:
            UsageError: As `LogFile.read`, and if a later version wrote the run.
        """
        self._require_known_format()
        return METRICS.read(self.path)

    def clients(self) -> list[ClientRow]:
        """Return the rows of ``clients.jsonl``; raises as `metrics` does."""
        self._require_known_format()
        return CLIENTS.read(self.path)

    def test(self) -> list[TestedRow]:
        """Return the rows of ``test.jsonl``, if the run was tested; raises as `metrics` does."""
        self._require_known_format()
        return TEST.read(self.path)

    def _require_known_format(self) -> None:
        if why := later_format(self.info):
            raise UsageError(f"{self.path}: {why}")

    def write_test(self, results: Mapping[int, Sequence["StepResult"]]) -> None:
        """Write ``test.jsonl``.

        Raises:
            OSError: If it cannot be written.
        """
        write_atomically(self.path / TEST.name, TEST.write(tested_rows(results)))


def require_free(path: Path) -> None:
    """Refuse to make a run where something is already.

    Raises:
        UsageError: It says what is there, and what to do.
    """
    if (path / "config.toml").exists():
        raise UsageError(
            f"{path} is a run: choose another --out, or resume it by `fedmeta resume {path}`"
        )
    if (path / "compare.json").exists():
        raise UsageError(f"{path} is a comparison: choose another --out (`fedmeta compare` resumes it)")
    if path.exists():
        raise UsageError(f"{path} exists already: choose another --out")
