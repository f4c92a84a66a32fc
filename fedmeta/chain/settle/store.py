"""A small SQLite file that one process writes, every step of it durable before the next begins."""

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmeta.chain.locks import FileLock
from fedmeta.errors import RunError, UsageError
from fedmeta.files import one_line, open_new

StepHook = Callable[[str], None]
# Virtual tables, and columns that are worked out when they are read.
_COMPUTED = re.compile(r"\b(?:VIRTUAL|GENERATED|AS)\b", re.IGNORECASE)


class DamagedJournalError(RunError):
    """The file cannot be read as a journal; the message names it and what can be done."""


def ignore(_: str) -> None:
    """Take no notice of a step."""


@dataclass(frozen=True)
class Schema:
    """The tables of a file.

    Attributes:
        version: Of the tables; a file of a version that is not known here is refused.
        tables: SQL that makes them in a new file.
        upgrades: Bring a file of an older version to this one, by that version; a `ValueError` says what
            is wrong with it. For whoever only reads such a file, a copy in the memory is upgraded.
    """

    version: int
    tables: str
    upgrades: Mapping[int, Callable[[sqlite3.Connection], None]]

    def apply(self, db: sqlite3.Connection, path: Path) -> None:
        """Make the tables of a new file, or upgrade those of an older one, in one transaction.

        Raises:
            DamagedJournalError: If what an older one holds is not what was written there.
        """
        db.execute("BEGIN IMMEDIATE")
        found = _version(db)
        try:
            # Another process may have brought it there since it was looked at.
            if found == self.version:
                db.execute("ROLLBACK")
                return
            if found:
                self.upgrades[found](db)
            else:
                # executescript would commit before it begins.
                for statement in self.tables.split(";"):
                    db.execute(statement)
        except ValueError as error:
            raise damaged(path, str(error)) from None
        db.execute(f"PRAGMA user_version = {self.version}")
        db.execute("COMMIT")


class Store:
    """A SQLite file in WAL mode, flushed to the disk at every commit.

    Args:
        path: The file; it and its folder are made if missing.
        schema: Of a new file; a file of an older one is brought to it.
        hook: Called with ``before NAME`` and ``after NAME`` around each step's transaction.

    Raises:
        UsageError: If another process has it open, or the place cannot be written.
        DamagedJournalError: If it is no such file, or damaged.
    """

    def __init__(self, path: Path, schema: Schema, hook: StepHook = ignore) -> None:
        self.path = path
        self._hook = hook
        self._guard = threading.RLock()
        _require_own(path)
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), f"the journal '{path}'")
        try:
            self._db = _connect(path)
            with self._clear():
                _check(self._db, path, schema)
                if _version(self._db) != schema.version:
                    schema.apply(self._db, path)
                    self._sync_folder()
        except BaseException:
            if hasattr(self, "_db"):
                self._db.close()
            self._lock.release()
            raise

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def step(self, name: str) -> Iterator[sqlite3.Connection]:
        """Run the block in one transaction that is on the disk when the block has ended.

        Raises:
            RunError: If the disk is full or the file was damaged; nothing of the block is kept then.
        """
        with self._guard, self._clear():
            self._hook(f"before {name}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._hook(f"after {name}")

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with self._guard, self._clear():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _clear(self) -> Iterator[None]:
        with explained(self.path):
            yield

    def close(self) -> None:
        """Close the file, and let others open it. Twice is fine."""
        with self._guard:
            self._db.close()
            self._lock.release()


class Reader:
    """The same file, read while another process may be writing it.

    Raises:
        UsageError: If there is no such file.
        DamagedJournalError: If it cannot be read.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        if not path.is_file():
            raise UsageError(f"there is no journal at '{path}'")
        self.path = path
        with explained(path):
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
            _check(self._db, path, schema)
            if 0 < _version(self._db) < schema.version:
                self._db = _copied(self._db)
                schema.apply(self._db, path)

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with explained(self.path):
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _require_own(path: Path) -> None:
    """Refuse a link, which SQLite would follow and write to what it leads to."""
    for ending in ("", "-wal", "-shm"):
        one = path.with_name(f"{path.name}{ending}")
        if one.is_symlink() or (one.exists() and not one.is_file()):
            raise UsageError(f"{one} is a link, or no file: remove it")


def _connect(path: Path) -> sqlite3.Connection:
    with suppress(FileExistsError):
        # SQLite would let others read it, as far as the umask does; its other files follow this one.
        open_new(path, 0o600).close()
    with explained(path):
        # Two threads share the connection, one at a time; see `Store._guard`.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    return db


def _check(db: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Refuse a file that is not what this package writes: SQLite runs what stands in its schema."""
    db.execute("PRAGMA trusted_schema = OFF")
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master LIMIT 100").fetchall():
        if kind not in ("table", "index") or _COMPUTED.search(str(sql)):
            raise damaged(path, f"it holds a {kind} that no journal has: {one_line(name, 60)}")
    found = _version(db)
    if found not in (0, schema.version, *schema.upgrades):
        raise UsageError(f"{path}: a journal of format {found}, and this fedmeta reads {schema.version}")
    ((verdict,),) = db.execute("PRAGMA quick_check(1)").fetchall()
    if verdict != "ok":
        raise damaged(path, one_line(verdict, 200))
    _require_kinds(db, path)


def _require_kinds(db: sqlite3.Connection, path: Path) -> None:
    """Refuse values of another kind than their column says: SQLite itself takes any."""
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        quoted = table.replace('"', '""')
        for column in db.execute(f'PRAGMA table_info("{quoted}")').fetchall():
            name, kind = column[1].replace('"', '""'), str(column[2]).lower()
            wrong = f'SELECT 1 FROM "{quoted}" WHERE typeof("{name}") NOT IN (?, \'null\') LIMIT 1'
            if db.execute(wrong, (kind,)).fetchone():
                raise damaged(path, f"a {one_line(column[1], 60)} in {one_line(table, 60)} is no {kind}")


def _copied(db: sqlite3.Connection) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:", isolation_level=None)
    db.backup(copy)
    db.close()
    return copy


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that names the file.

    Raises:
        RunError: For each of them.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        # The low byte is the kind; the rest says more than a user needs.
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if kind in _PASSING:
            raise RunError(f"{path}: {_PASSING[kind]}") from None
        raise damaged(path, str(error)) from None


_PASSING = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk failed",
}


def damaged(path: Path, why: str) -> DamagedJournalError:
    """Return the error that says so."""
    return DamagedJournalError(
        f"{path}: the journal is damaged ({' '.join(why.split())}): "
        "restore the file, or start over with --new-campaign"
    )
