"""The journal's SQLite file: a single writer, and each step is durable before the next begins."""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmeta.chain.locks import FileLock
from fedmeta.chain.settle.journal_format import TABLES, UPGRADES, VERSION
from fedmeta.errors import RunError, UsageError
from fedmeta.files import one_line, open_new, sync_folder

StepHook = Callable[[str], None]
# Virtual tables, and generated columns.
_COMPUTED = re.compile(r"\b(?:VIRTUAL|GENERATED|AS)\b", re.IGNORECASE)


class DamagedJournalError(RunError):
    """The file is not a readable journal; the message names it and the remedy."""


def ignore(_: str) -> None:
    """Ignore a step."""


class Reader:
    """Read-only access to the file, also while another process writes it.

    A file of an older format is upgraded in memory.

    Raises:
        UsageError: If there is no such file.
        DamagedJournalError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"there is no journal at '{path}'")
        self.path = path
        self._guard = threading.RLock()
        with explained(path):
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
            if 0 < _check(self._db, path) < VERSION:
                stored, self._db = self._db, sqlite3.connect(":memory:", isolation_level=None)
                stored.backup(self._db)
                stored.close()
                bring_up_to_date(self._db, path)

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with self._guard, explained(self.path):
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._guard:
            self._db.close()


class Store(Reader):
    """The file in WAL mode, flushed to disk at every commit.

    Args:
        path: The file; it and its folder are created if missing, and an older format is upgraded.
        hook: Called with ``before NAME`` and ``after NAME`` around each step's transaction.

    Raises:
        UsageError: If another process has it open, or the folder is not writable.
        DamagedJournalError: If it is not such a file, or is damaged.
    """

    def __init__(self, path: Path, hook: StepHook = ignore) -> None:
        self.path = path
        self._hook = hook
        self._guard = threading.RLock()
        _require_own(path)
        lock = FileLock(path.with_name(f"{path.name}.lock"), f"the journal '{path}'")
        with ExitStack() as held, explained(path):
            held.callback(lock.release)
            with suppress(FileExistsError):
                # SQLite would create it readable by others, up to the umask; its other files copy this.
                open_new(path, 0o600).close()
            # Two threads share the connection, one at a time; see `_guard`.
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db = held.enter_context(closing(db))
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if _check(self._db, path) != VERSION:
                bring_up_to_date(self._db, path)
                sync_folder(path.parent)
            self._held = held.pop_all()

    @contextmanager
    def step(self, name: str) -> Iterator[sqlite3.Connection]:
        """Run the block in one transaction, committed to disk when the block ends.

        Raises:
            RunError: If the disk is full or the file is damaged; the block's writes are rolled back.
        """
        with self._guard, explained(self.path):
            self._hook(f"before {name}")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
            self._hook(f"after {name}")

    def close(self) -> None:
        """Close the file and release its lock. May be called twice."""
        with self._guard:
            self._held.close()


def bring_up_to_date(db: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file, or upgrade an older one, in one transaction.

    Raises:
        DamagedJournalError: If an older file is damaged.
    """
    try:
        with db:
            db.execute("BEGIN IMMEDIATE")
            found = _version(db)
            if found == 0:
                # executescript would commit before it begins.
                for statement in TABLES.split(";"):
                    db.execute(statement)
            elif found != VERSION:
                # Another process may have upgraded it meanwhile.
                UPGRADES[found](db)
            db.execute(f"PRAGMA user_version = {VERSION}")
    except ValueError as error:
        raise damaged(path, str(error)) from None


def _require_own(path: Path) -> None:
    """Refuse links, as SQLite would follow them and write to their targets."""
    for ending in ("", "-wal", "-shm"):
        one = path.with_name(f"{path.name}{ending}")
        if one.is_symlink() or (one.exists() and not one.is_file()):
            raise UsageError(f"{one} is a link, or not a file: remove it")


def _check(db: sqlite3.Connection, path: Path) -> int:
    """Return a file's format; refuse a file that this package did not write.

    SQLite executes code in a file's schema, and does not enforce the types of columns.
    """
    db.execute("PRAGMA trusted_schema = OFF")
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master LIMIT 100").fetchall():
        if kind not in ("table", "index") or _COMPUTED.search(str(sql)):
            raise damaged(path, f"it holds a {kind} that no journal has: {one_line(name, 60)}")
    found = _version(db)
    if found not in (0, VERSION, *UPGRADES):
        raise UsageError(f"{path}: a journal of format {found}, and this fedmeta reads {VERSION}")
    ((verdict,),) = db.execute("PRAGMA quick_check(1)").fetchall()
    if verdict != "ok":
        raise damaged(path, one_line(verdict, 200))
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        quoted = table.replace('"', '""')
        for column in db.execute(f'PRAGMA table_info("{quoted}")').fetchall():
            name, kind = column[1].replace('"', '""'), str(column[2]).lower()
            wrong = f'SELECT 1 FROM "{quoted}" WHERE typeof("{name}") NOT IN (?, \'null\') LIMIT 1'
            if db.execute(wrong, (kind,)).fetchone():
                raise damaged(
                    path, f"a {one_line(column[1], 60)} in {one_line(table, 60)} is not {kind}"
                )
    return found


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


_PASSING = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk failed",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Convert SQLite's errors to one line that names the file.

    Raises:
        RunError: For any SQLite error.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        # The low byte is the primary error code.
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if kind in _PASSING:
            raise RunError(f"{path}: {_PASSING[kind]}") from None
        raise damaged(path, str(error)) from None


def damaged(path: Path, why: str) -> DamagedJournalError:
    """Return the error for a damaged journal."""
    return DamagedJournalError(
        f"{path}: the journal is damaged ({' '.join(why.split())}): "
        "restore the file, or start over with --new-campaign"
    )
