"""The journal's SQLite file: its tables, upgrades from earlier formats, and durable steps."""

import hashlib
import math
import re
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmeta.chain.locks import FileLock
from fedmeta.chain.settle.journal_rows import FrozenRound, contribution, insert_round
from fedmeta.errors import RunError, UsageError
from fedmeta.files import one_line, open_new, sync_folder

_CAMPAIGN = """
CREATE TABLE campaign (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    campaign BLOB NOT NULL, run BLOB NOT NULL, round_cap TEXT NOT NULL, budget TEXT NOT NULL,
    chain_id INTEGER, genesis BLOB, terms TEXT, token TEXT, ledger TEXT, registry TEXT, code BLOB,
    block INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0
);
"""
_RECORDS = """
CREATE TABLE records (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
    rewards_root BLOB NOT NULL, contributions_root BLOB NOT NULL, model BLOB NOT NULL,
    evidence BLOB NOT NULL, total TEXT NOT NULL,
    ledger TEXT NOT NULL, epoch INTEGER NOT NULL, signatures BLOB NOT NULL, mined INTEGER NOT NULL
);
"""
_ROUNDS = """
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, model BLOB NOT NULL, evidence BLOB NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE contributions (
    round INTEGER NOT NULL, client INTEGER NOT NULL, account BLOB NOT NULL, tasks INTEGER NOT NULL,
    update_hash BLOB NOT NULL, signature BLOB NOT NULL, score REAL, reward TEXT NOT NULL,
    PRIMARY KEY (round, client)
) WITHOUT ROWID;
"""
_OTHERS = """
CREATE TABLE transactions (
    hash BLOB PRIMARY KEY, action TEXT NOT NULL, sender TEXT NOT NULL, nonce INTEGER NOT NULL,
    raw BLOB NOT NULL, state TEXT NOT NULL, block_hash BLOB, block_number INTEGER
);
CREATE TABLE stakes (account TEXT PRIMARY KEY, evidence BLOB);
CREATE INDEX transactions_by_action ON transactions (action);
"""
VERSION = 3
TABLES = _CAMPAIGN + _RECORDS + _ROUNDS + _OTHERS

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
    """The file, open for writing by only this process, and flushed to disk at every commit.

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
    """Create the tables of a new file, or upgrade an older one, all or nothing."""
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


def _from_1(db: sqlite3.Connection) -> None:
    """Upgrade format 1, where amounts were integers; copying into a text column converts them."""
    for table, made in (("campaign", _CAMPAIGN), ("records", _RECORDS)):
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
        db.execute(made)
        db.execute(f"INSERT INTO {table} SELECT * FROM {table}_1")
        db.execute(f"DROP TABLE {table}_1")
    _from_2(db)


def _from_2(db: sqlite3.Connection) -> None:
    """Upgrade format 2, where a round was one byte string."""
    db.execute("ALTER TABLE rounds RENAME TO rounds_2")
    for table in _ROUNDS.split(";"):
        db.execute(table)
    stored = db.execute("SELECT round, digest, content FROM rounds_2 ORDER BY round")
    for round_, found, content in stored:
        if hashlib.sha256(content).digest() != found:
            raise ValueError(f"round {round_} is not what was frozen")
        insert_round(db, _unpacked(content))
    db.execute("DROP TABLE rounds_2")


# Magic, round, number of contributions, model, evidence; then a fixed-width row per contribution. All
# integers are big-endian. A reward has 8 bytes, or 16 in rounds that award a client 2^63 units or more.
_HEAD = struct.Struct(">16sQQ32s32s")
_PACKED = {
    b"fedmeta round 1\n": struct.Struct(">Q20sQ32s65sd8s"),
    b"fedmeta round 2\n": struct.Struct(">Q20sQ32s65sd16s"),
}


def _unpacked(content: bytes) -> FrozenRound:
    """Decode a round of format 1 or 2."""
    try:
        magic, round_, count, model, evidence = _HEAD.unpack_from(content)
        rows = list(_PACKED[magic].iter_unpack(content[_HEAD.size :]))
    except (struct.error, KeyError):
        raise ValueError("there is a round in bytes that no version wrote") from None
    if len(rows) != count:
        raise ValueError(f"round {round_} has {len(rows)} contributions of {count}")
    contributions = (
        contribution((*values, None if math.isnan(score) else score, int.from_bytes(reward)))
        for *values, score, reward in rows
    )
    return FrozenRound(round_, model, evidence, tuple(contributions))


UPGRADES = {1: _from_1, 2: _from_2}
"""Upgrade a file from an older format; they raise `ValueError` for a damaged one."""


_PASSING = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk failed",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Convert SQLite's errors to a `RunError` of one line that names the file."""
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
