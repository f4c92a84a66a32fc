"""Stores the embedded chain's blocks and state in one SQLite file.

A block, its transaction, its logs and the state after it are committed together, so a crash leaves all
of a block or none of it.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eth.abc import AtomicWriteBatchAPI
from eth.db.atomic import AtomicDBWriteBatch
from eth.db.backends.base import BaseAtomicDB

from fedmeta.chain.evm.render import Json
from fedmeta.errors import UsageError

_FORMAT = 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (number INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, header BLOB NOT NULL, body TEXT NOT NULL);
CREATE TABLE transactions (
    hash TEXT PRIMARY KEY, number INTEGER NOT NULL, body TEXT NOT NULL, receipt TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE logs (number INTEGER NOT NULL, address TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX logs_by_place ON logs (address, number);
CREATE INDEX transactions_by_number ON transactions (number);
"""  # noqa: E501


class Store(BaseAtomicDB):
    """State by hash for py-evm; blocks, transactions and logs for JSON-RPC.

    Writes of state stay in memory until `add` commits them with their block.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._waiting: dict[bytes, bytes] = {}
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            found = self._database.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _FORMAT):
                raise UsageError(f"{path} was made by another version of fedmeta (format {found})")
            if found == 0:
                with self._transaction():
                    # executescript would commit before it begins.
                    for statement in _SCHEMA.split(";"):
                        self._database.execute(statement)
                    self._database.execute(f"PRAGMA user_version = {_FORMAT}")
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise UsageError(f"{path} is not an embedded chain: {error}") from None
            raise

    def __getitem__(self, key: bytes) -> bytes:
        value = self._waiting.get(key)
        if value is None:
            row = self._database.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise KeyError(key)
            value = row[0]
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._waiting[key] = value

    def __delitem__(self, key: bytes) -> None:
        # State is content-addressed: stored entries stay valid, only pending ones can be dropped.
        self._waiting.pop(key, None)

    def _exists(self, key: bytes) -> bool:
        return self.get(key) is not None

    @contextmanager
    def atomic_batch(self) -> Iterator[AtomicWriteBatchAPI]:
        """Collect writes and apply them together, as py-evm requires."""
        with AtomicDBWriteBatch._commit_unless_raises(self) as batch:
            yield batch

    def forget(self) -> None:
        """Drop the writes since the last block."""
        self._waiting.clear()

    def add(
        self, header: bytes, body: Json, transaction: Json | None = None, receipt: Json | None = None
    ) -> None:
        """Commit a block, with all state written since the last one.

        `header` is for py-evm; the block's `body`, its transaction if it has one, and that one's receipt
        are for JSON-RPC.
        """
        number = int(body["number"], 16)
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO state VALUES (?, ?)", self._waiting.items())
            block = (number, body["hash"], header, json.dumps(body))
            database.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", block)
            if transaction and receipt:
                row = (transaction["hash"], number, json.dumps(transaction), json.dumps(receipt))
                database.execute("INSERT INTO transactions VALUES (?, ?, ?, ?)", row)
                logs = [(number, log["address"].lower(), json.dumps(log)) for log in receipt["logs"]]
                database.executemany("INSERT INTO logs VALUES (?, ?, ?)", logs)
        self._waiting.clear()

    def drop_after(self, number: int) -> None:
        """Drop all blocks after block `number`, as a reorganisation does."""
        with self._transaction() as database:
            for table in ("logs", "transactions", "blocks"):
                database.execute(f"DELETE FROM {table} WHERE number > ?", (number,))

    def head(self) -> int | None:
        """Return the number of the last block, or None if there is no genesis block."""
        row = self._database.execute("SELECT max(number) FROM blocks").fetchone()
        return None if row[0] is None else int(row[0])

    def header(self, number: int) -> bytes | None:
        """Return a block's encoded header, or None if there is no such block."""
        row = self._database.execute("SELECT header FROM blocks WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None

    def block(self, column: str, value: int | str) -> Json | None:
        """Return the block whose ``number`` or ``hash`` is given, or None."""
        return self._json(f"SELECT body FROM blocks WHERE {column} = ?", value)

    def transaction(self, digest: str) -> Json | None:
        """Return a mined transaction, or None."""
        return self._json("SELECT body FROM transactions WHERE hash = ?", digest)

    def receipt(self, digest: str) -> Json | None:
        """Return the receipt of a mined transaction, or None."""
        return self._json("SELECT receipt FROM transactions WHERE hash = ?", digest)

    def logs(self, first: int, last: int, addresses: Sequence[str]) -> list[Json]:
        """Return the logs of a range of blocks, oldest first; without `addresses`, of all contracts."""
        where = f"AND address IN ({', '.join('?' * len(addresses))})" if addresses else ""
        rows = self._database.execute(
            f"SELECT body FROM logs WHERE number BETWEEN ? AND ? {where} ORDER BY number, rowid",
            (first, last, *(address.lower() for address in addresses)),
        )
        return [json.loads(row[0]) for row in rows]

    def note(self, name: str) -> str | None:
        """Return what `remember` stored under a name, or None."""
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def remember(self, name: str, value: str) -> None:
        """Store a value under a name."""
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _json(self, query: str, value: int | str) -> Json | None:
        row = self._database.execute(query, (value,)).fetchone()
        found: Json | None = json.loads(row[0]) if row else None
        return found

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database
