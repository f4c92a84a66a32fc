"""Finds the runs and comparisons of a folder, and reports their changes; no other path is opened."""

import asyncio
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from starlette.concurrency import run_in_threadpool

from fedmeta.comparison.record import COMPARE
from fedmeta.errors import UsageError
from fedmeta.files import to_json
from fedmeta.report.read import is_compare, is_run

Kind = Literal["run", "comparison"]
Stamp = tuple[tuple[int, int, int], ...]

_READ = (
    "run.json",
    "config.toml",
    "metrics.jsonl",
    "clients.jsonl",
    "test.jsonl",
    "examples.safetensors",
    "explanations.json",
    "streams.json",
    "config.seal",
    "run.lock",
    "report.html",
    COMPARE,
    "chain",
    "chain/journal.sqlite",
    "chain/journal.sqlite-wal",
    "chain/journal.sqlite-shm",
    "chain/audit.json",
)
"""Every file of a folder that the page reads."""
_FRESH_SECONDS = 0.5


class UnknownError(UsageError):
    """There is no such run or comparison."""


@dataclass(frozen=True)
class Entry:
    """A run or comparison in the folder.

    Attributes:
        id: Its path below the folder of runs; what an address names it by.
        path: Where it is.
        kind: ``run`` or ``comparison``.
        parent: Id of the comparison that it is a run of; None: it stands alone.
        stamp: Changes whenever one of its files does.
        problem: Why none of its files may be read, in one line; None: they may.
    """

    id: str
    path: Path
    kind: Kind
    parent: str | None
    stamp: Stamp
    problem: str | None


class Index:
    """The runs and comparisons directly in a folder, and those one level below it.

    An id that a browser sends is looked up among the known ones and never made into a path. A folder or
    file that a symbolic link leads to from elsewhere is not read.

    Args:
        root: The folder of runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = root.resolve()
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._runs: dict[str, str] = {}
        self._seen = float("-inf")

    def entries(self, within: float = _FRESH_SECONDS) -> dict[str, Entry]:
        """Return what there is by id, as of at most `within` seconds ago."""
        with self._lock:
            if time.monotonic() - self._seen > within:
                self._entries = {entry.id: entry for entry in self._scan()}
                runs = (entry for entry in self._entries.values() if entry.kind == "run")
                self._runs = {os.path.abspath(entry.path): entry.id for entry in runs}
                self._seen = time.monotonic()
            return self._entries

    def find(self, id_: str) -> Entry:
        """Return the run or comparison of an id.

        Raises:
            UnknownError: If there is none.
        """
        # A page that says "no such run" does not look again, and the run may have been made just now.
        entry = self.entries().get(id_) or self.entries(within=0.0).get(id_)
        if entry is None:
            raise UnknownError("there is no such run in the folder of runs")
        return entry

    def at(self, path: Path) -> Entry | None:
        """Return the run at a path, however it is written; None: it is not served."""
        entries = self.entries()
        return entries.get(self._runs.get(os.path.abspath(path), ""))

    def _scan(self) -> Iterator[Entry]:
        for path in self._folders(self.root):
            parent = None
            if is_compare(path):
                parent = _id(path.relative_to(self.root))
                yield self._entry(path, "comparison", None)
            elif is_run(path):
                yield self._entry(path, "run", None)
                continue
            for below in self._folders(path):
                if is_run(below):
                    yield self._entry(below, "run", parent)

    def _folders(self, parent: Path) -> list[Path]:
        try:
            with os.scandir(parent) as found:
                names = sorted(entry.name for entry in found if _is_folder(entry))
        except OSError:
            return []
        # A name with a dot in front is a run folder that is still being made.
        paths = [parent / name for name in names if not name.startswith(".")]
        return [path for path in paths if self._inside(path)]

    def _inside(self, path: Path) -> bool:
        if not path.is_symlink():
            return True
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return False
        return self._real in real.parents

    def _entry(self, path: Path, kind: Kind, parent: str | None) -> Entry:
        stamp, problem = self._look(path)
        return Entry(_id(path.relative_to(self.root)), path, kind, parent, stamp, problem)

    def _look(self, path: Path) -> tuple[Stamp, str | None]:
        """Return the stamp of a folder's files, and what is wrong with one of them."""
        stamp, problem = [], None
        for name in _READ:
            try:
                found = (path / name).lstat()
                if stat.S_ISLNK(found.st_mode):
                    if not self._inside(path / name):
                        problem = f"{name} is a link that leads out of the folder of runs"
                    found = (path / name).stat()
            except OSError:
                stamp.append((0, 0, 0))
                continue
            if not (stat.S_ISREG(found.st_mode) or (name == "chain" and stat.S_ISDIR(found.st_mode))):
                problem = f"{name} is not a file"
            stamp.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamp), problem


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A circular link.
        return False


def _id(path: Path) -> str:
    # A name that is not UTF-8 is listed in escaped form.
    return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")


Versions = dict[str, tuple[Stamp, str]]

MOST_STREAMS = 32
"""Streams that may be open: each looks at the folder of runs once a second."""
_TICK = 0.25
_LOOK_TICKS = 4
_HEARTBEAT_TICKS = 40


class Events:
    """Server-sent events: the ids of runs and comparisons that changed, appeared or went.

    Args:
        look: Returns what is there and how it stands; may block for some milliseconds.
        stopping: Whether the server is about to end.

    Attributes:
        open: Streams that are open.
    """

    def __init__(self, look: Callable[[], Versions], stopping: Callable[[], bool]) -> None:
        self._look = look
        self._stopping = stopping
        self.open = 0

    async def stream(self) -> AsyncIterator[str]:
        """Yield events until the server ends or the caller goes away.

        The first one says that the stream is on: what happened before it, a page has to ask for.
        """
        self.open += 1
        try:
            seen = await run_in_threadpool(self._look)
            yield "retry: 1000\nevent: on\ndata: {}\n\n"
            tick = 0
            while not self._stopping():
                await asyncio.sleep(_TICK)
                tick += 1
                if tick % _LOOK_TICKS == 0:
                    now = await run_in_threadpool(self._look)
                    changed = _changed(seen, now)
                    seen = now
                    if changed:
                        yield f"data: {to_json({'changed': changed})}\n\n"
                if tick % _HEARTBEAT_TICKS == 0:
                    yield ": still here\n\n"
        finally:
            self.open -= 1


def _changed(before: Versions, now: Versions) -> list[str]:
    return [id_ for id_ in before | now if before.get(id_) != now.get(id_)]
