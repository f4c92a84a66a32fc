"""The journal's tables, how a round stands in them, and how those of earlier formats are upgraded."""

import hashlib
import math
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from fedmeta.chain.hashing import from_address, to_address
from fedmeta.chain.settle.journal_rows import Campaign, Contribution, FrozenRound, SignedRecord
from fedmeta.chain.settle.store import Schema
from fedmeta.errors import RunError

AMOUNTS = frozenset({"round_cap", "budget", "total"})
"""Decimal text, as are rewards: SQLite's integers end at 2^63, and a campaign's amounts at 2^128."""

RowT = TypeVar("RowT", Campaign, SignedRecord)
Row = tuple[Any, ...]
"""A contribution's client, account, tasks, update, signature, score and reward, as they are stored."""

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


def insert_round(db: sqlite3.Connection, frozen: FrozenRound) -> None:
    """Write a round's rows, and the digest by which a row that rots is found."""
    head, rows = (frozen.round, frozen.model, frozen.evidence), rows_of(frozen)
    db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?)", (*head, digest(head, rows)))
    values = [(frozen.round, *row) for row in rows]
    db.executemany("INSERT INTO contributions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def rows_of(frozen: FrozenRound) -> list[Row]:
    """Return a round's contributions as they are stored."""
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
    """Return the contribution that a row holds."""
    client, account, tasks, update, signature, score, reward = row
    return Contribution(client, account_text(account), tasks, update, signature, score, int(reward))


@lru_cache(maxsize=1 << 16)
def account_text(account: bytes) -> str:
    """Return 20 bytes as a checksummed address; remembered, for it costs two hashes."""
    return to_address(account)


def digest(head: tuple[int, bytes, bytes], rows: Sequence[Row]) -> bytes:
    """Return SHA-256 over a round's number, model, evidence and rows.

    Each row is a line of its numbers and of the lengths of its byte strings, then those: a quarter of
    the time of the row's `repr`.
    """
    parts = [repr(head).encode()]
    for client, account, tasks, update, signature, score, reward in rows:
        sizes = f"{len(account)} {len(update)} {len(signature)}"
        parts.append(f"\n{client!r} {tasks!r} {score!r} {reward!r} {sizes}\n".encode())
        parts += account, update, signature
    return hashlib.sha256(b"".join(parts)).digest()


def is_digest(stored: bytes, head: tuple[int, bytes, bytes], rows: Sequence[Row]) -> bool:
    """Return whether a round's stored digest is that of its rows, by today's rule or the first."""
    try:
        if digest(head, rows) == stored:
            return True
    except TypeError:
        # A byte string has rotted into something else.
        return False
    return hashlib.sha256(repr((head, list(rows))).encode()).digest() == stored


def written(values: Mapping[str, object]) -> tuple[object, ...]:
    """Return values by column as they are stored."""
    return tuple(str(value) if name in AMOUNTS else value for name, value in values.items())


def read(kind: type[RowT], row: Sequence[Any]) -> RowT:
    """Return the row type that a stored row holds."""
    fields = zip(kind.__dataclass_fields__, row, strict=True)
    try:
        values: list[Any] = [int(value) if name in AMOUNTS else value for name, value in fields]
    except (ValueError, TypeError):
        raise RunError("the journal is damaged: it holds an amount that is not a number") from None
    return kind(*values)


def names(kind: type[Any]) -> str:
    """Return the columns of a row type, for a query; `marks` has a place for each."""
    return ", ".join(kind.__dataclass_fields__)


def marks(kind: type[Any]) -> str:
    """Return a place for each column of a row type; see `names`."""
    return ", ".join("?" for _ in kind.__dataclass_fields__)


def _from_1(db: sqlite3.Connection) -> None:
    """Amounts were integers; copied into a column of text they become text."""
    for table, made in (("campaign", _CAMPAIGN), ("records", _RECORDS)):
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
        db.execute(made)
        db.execute(f"INSERT INTO {table} SELECT * FROM {table}_1")
        db.execute(f"DROP TABLE {table}_1")
    _from_2(db)


def _from_2(db: sqlite3.Connection) -> None:
    """A round was one value of bytes."""
    db.execute("ALTER TABLE rounds RENAME TO rounds_2")
    for table in _ROUNDS.split(";"):
        db.execute(table)
    stored = db.execute("SELECT round, digest, content FROM rounds_2 ORDER BY round")
    for round_, found, content in stored:
        if hashlib.sha256(content).digest() != found:
            raise ValueError(f"round {round_} is not what was frozen")
        insert_round(db, _unpacked(content))
    db.execute("DROP TABLE rounds_2")


# Magic, round, number of contributions, model, evidence; then a row of fixed width for each of them. All
# integers are big-endian. A reward has 8 bytes, or 16 in rounds that award a client 2^63 units or more.
_HEAD = struct.Struct(">16sQQ32s32s")
_PACKED = {
    b"fedmeta round 1\n": struct.Struct(">Q20sQ32s65sd8s"),
    b"fedmeta round 2\n": struct.Struct(">Q20sQ32s65sd16s"),
}


def _unpacked(content: bytes) -> FrozenRound:
    """Return the round in the bytes of formats 1 and 2.

    Raises:
        ValueError: If it is none.
    """
    try:
        magic, round_, count, model, evidence = _HEAD.unpack_from(content)
        rows = list(_PACKED[magic].iter_unpack(content[_HEAD.size :]))
    except (struct.error, KeyError):
        raise ValueError("there is a round in bytes that no version wrote") from None
    if len(rows) != count:
        raise ValueError(f"round {round_} has {len(rows)} contributions of {count}")
    return FrozenRound(round_, model, evidence, tuple(_contributions(rows)))


def _contributions(rows: Iterable[Row]) -> Iterable[Contribution]:
    for client, account, tasks, update, signature, score, reward in rows:
        known, units = None if math.isnan(score) else score, int.from_bytes(reward)
        yield Contribution(client, to_address(account), tasks, update, signature, known, units)


SCHEMA = Schema(3, _CAMPAIGN + _RECORDS + _ROUNDS + _OTHERS, {1: _from_1, 2: _from_2})
