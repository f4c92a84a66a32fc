"""The journal's tables, their encoding of rounds, and upgrades from earlier formats."""

import hashlib
import math
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

from fedmeta.chain.hashing import from_address, to_address
from fedmeta.chain.settle.journal_rows import Campaign, Contribution, FrozenRound, SignedRecord
from fedmeta.errors import RunError

AMOUNTS = frozenset({"round_cap", "budget", "total"})
"""Stored as decimal text, like rewards: SQLite's integers end at 2^63, a campaign's amounts at 2^128."""

RowT = TypeVar("RowT", Campaign, SignedRecord)
Row = tuple[Any, ...]
"""A contribution's client, account, tasks, update, signature, score and reward, as stored."""

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


def insert_round(db: sqlite3.Connection, frozen: FrozenRound) -> None:
    """Write a round's rows, and their digest, which detects corruption."""
    head, rows = (frozen.round, frozen.model, frozen.evidence), rows_of(frozen)
    db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?)", (*head, digest(head, rows)))
    values = [(frozen.round, *row) for row in rows]
    db.executemany("INSERT INTO contributions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def rows_of(frozen: FrozenRound) -> list[Row]:
    """Return the rows of a round's contributions."""
    return [
        (
            c.client,
            from_address(c.account),
            c.tasks,
            c.update,
            c.signature,
            # SQLite stores -0.0 as 0.0.
            None if c.score is None else c.score + 0.0,
            str(c.reward),
        )
        for c in frozen.contributions
    ]


def contribution(row: Row) -> Contribution:
    """Return the contribution in a row."""
    client, account, tasks, update, signature, score, reward = row
    return Contribution(client, account_text(account), tasks, update, signature, score, int(reward))


@lru_cache(maxsize=1 << 16)
def account_text(account: bytes) -> str:
    """Return 20 bytes as a checksummed address; cached, as it takes two hashes."""
    return to_address(account)


def digest(head: tuple[int, bytes, bytes], rows: Sequence[Row]) -> bytes:
    """Return SHA-256 over a round's number, model, evidence and rows.

    Columns of numbers and the lengths of the byte strings are written as Python shows them, then the
    byte strings as they are, which takes about half as long as the `repr` of the rows.
    """
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * 7
    client, account, tasks, update, signature, score, reward = columns
    raw = (account, update, signature)
    numbers = (head, client, tasks, score, reward, [[len(value) for value in column] for column in raw])
    return hashlib.sha256(repr(numbers).encode() + b"".join(chain(*raw))).digest()


def is_digest(stored: bytes, head: tuple[int, bytes, bytes], rows: Sequence[Row]) -> bool:
    """Return whether a round's stored digest matches its rows, by the present rule or the first one."""
    try:
        if digest(head, rows) == stored:
            return True
    except TypeError:
        # Corruption has changed the type of a byte string.
        return False
    return hashlib.sha256(repr((head, list(rows))).encode()).digest() == stored


def insert(db: sqlite3.Connection, into: str, values: Mapping[str, object]) -> None:
    """Insert a row, given by column; `into` is the statement up to the columns."""
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    db.execute(f"{into} ({columns}) VALUES ({marks})", written(values))


def written(values: Mapping[str, object]) -> tuple[object, ...]:
    """Return column values as stored."""
    return tuple(str(value) if name in AMOUNTS else value for name, value in values.items())


def read(kind: type[RowT], row: Sequence[Any]) -> RowT:
    """Return a stored row as its row type."""
    fields = zip(kind.__dataclass_fields__, row, strict=True)
    try:
        values: list[Any] = [int(value) if name in AMOUNTS else value for name, value in fields]
    except (ValueError, TypeError):
        raise RunError("the journal is damaged: it holds an amount that is not a number") from None
    return kind(*values)


def names(kind: type[Any]) -> str:
    """Return the columns of a row type, for a query."""
    return ", ".join(kind.__dataclass_fields__)


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
    """Decode a round of format 1 or 2.

    Raises:
        ValueError: If `content` is malformed.
    """
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
