"""Journal row types (campaign, frozen rounds, records, transactions), and their encoding as rows."""

import hashlib
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from typing import Any, Literal, TypeVar

from fedmeta.chain.hashing import from_address, to_address
from fedmeta.chain.signing import Domain, typed_digest
from fedmeta.errors import RunError

_MOST = 2**63
"""SQLite's integers end here; rewards end at 2^128."""


@dataclass(frozen=True)
class Campaign:
    """The journal's campaign; None means not known yet. Ids and hashes have 32 bytes."""

    campaign: bytes
    run: bytes
    round_cap: int  # Token units that a round may pay.
    budget: int  # Token units in escrow.
    chain_id: int | None = None
    genesis: bytes | None = None  # Hash of the chain's block 0.
    terms: str | None = None  # The ledger's terms as JSON, fixed before it is deployed.
    token: str | None = None
    ledger: str | None = None
    registry: str | None = None
    code: bytes | None = None  # Hash of the ledger's code.
    block: int = 0  # No transaction of the campaign was mined before this block.
    epoch: int = 0  # Vetoes seen.


@dataclass(frozen=True, slots=True)
class Contribution:
    """One client's contribution to a round, and its award.

    Attributes:
        client: Partition id.
        account: Its address, 0x text.
        tasks: Training tasks behind the update.
        update: SHA-256 of the update's arrays.
        signature: The client's signature of the update, 65 bytes.
        score: Score of the update; None if it was not scored.
        reward: Token units (10^-6 of a token).
    """

    client: int
    account: str
    tasks: int
    update: bytes
    signature: bytes
    score: float | None
    reward: int


@dataclass(frozen=True, slots=True)
class FrozenRound:
    """A finished round.

    Attributes:
        round: Counted from 1.
        model: Hash of the state after the round, 32 bytes.
        evidence: SHA-256 of the round's lines of ``clients.jsonl``.
        contributions: Those of the admitted clients, by client id.
    """

    round: int
    model: bytes
    evidence: bytes
    contributions: tuple[Contribution, ...]

    @property
    def reward(self) -> int:
        """Token units that the round pays."""
        return sum(c.reward for c in self.contributions)

    def check(self) -> None:
        """Raise a `ValueError` that names the round, the client and the field if it cannot be frozen."""
        where = f"round {self.round}"
        if not 1 <= self.round < _MOST:
            raise ValueError(f"{where}: rounds count from 1")
        if len(self.model) != 32 or len(self.evidence) != 32:
            raise ValueError(f"{where}: model and evidence hashes have 32 bytes")
        clients = [c.client for c in self.contributions]
        if any(a >= b for a, b in pairwise(clients)):
            raise ValueError(f"{where}: contributions go by rising client id, one each")
        if len({c.account.lower() for c in self.contributions}) != len(clients):
            raise ValueError(f"{where}: two contributions of one account")
        for c in self.contributions:
            if len(c.update) != 32 or len(c.signature) != 65:
                raise ValueError(f"{where}, client {c.client}: an update has 32 bytes, its signature 65")
            if not (0 <= c.client < _MOST and 0 <= c.tasks < _MOST and 0 <= c.reward < 2**128):
                raise ValueError(f"{where}, client {c.client}: tasks or reward are out of range")
            if c.score is not None and not math.isfinite(c.score):
                raise ValueError(f"{where}, client {c.client}: the score is not finite")


@dataclass(frozen=True)
class Content:
    """Content of a record of rounds `first` to `last` inclusive, in order of the contract's struct.

    Attributes:
        rewards_root: Root over (account, units awarded up to `last`), without accounts at zero.
        contributions_root: Root over (account, round, tasks, update, units) of the range.
        model: Hash of the state after `last`.
        evidence: See `range_evidence`.
        total: Units awarded to all accounts up to `last`.
    """

    first: int
    last: int
    rewards_root: bytes
    contributions_root: bytes
    model: bytes
    evidence: bytes
    total: int

    @property
    def rounds(self) -> str:
        """The rounds, for messages."""
        return f"rounds {self.first} to {self.last}"

    def struct(self) -> tuple[object, ...]:
        """Return the contract's struct."""
        return tuple(getattr(self, field.name) for field in fields(Content))

    def digest(self, domain: Domain, campaign: bytes, epoch: int) -> bytes:
        """Return what the committee of `campaign` signs after `epoch` vetoes."""
        return typed_digest(domain, "Record", campaign, epoch, *self.struct())

    def differs(self, other: "Content") -> str | None:
        """Return the first field in which two records differ, with both values; None if equal."""
        for field, mine, theirs in zip(fields(Content), self.struct(), other.struct(), strict=True):
            if mine != theirs:
                return f"{field.name.replace('_', ' ')} {_shown(mine)} and {_shown(theirs)}"
        return None


@dataclass(frozen=True)
class SignedRecord(Content):
    """A record signed by the committee for one ledger.

    Attributes:
        ledger: Ledger address in the signatures; empty, without signatures, if others recorded it.
        epoch: Number of vetoes in the signatures.
        signatures: 65 bytes each, by ascending address of the signer.
        mined: Whether it was seen on the chain.
    """

    ledger: str
    epoch: int
    signatures: bytes
    mined: bool = False


State = Literal["journaled", "sent", "mined", "final", "reverted", "dropped"]
"""``dropped``: another transaction used its nonce. Earlier versions marked old ones as ``final``."""


@dataclass(frozen=True)
class Transaction:
    """A signed transaction, sent or not; an action may have several."""

    hash: bytes
    action: str
    sender: str
    nonce: int
    raw: bytes
    state: State = "journaled"
    block_hash: bytes | None = None
    block_number: int | None = None


def range_evidence(evidence: Iterable[bytes]) -> bytes:
    """Return the evidence hash of a record: SHA-256 of its rounds' concatenated evidence hashes.

    The rule also holds for a record of one round, so it does not depend on batching.
    """
    return hashlib.sha256(b"".join(evidence)).digest()


def _shown(value: object) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


AMOUNTS = frozenset({"round_cap", "budget", "total"})
"""Stored as decimal text, like rewards: SQLite's integers end at 2^63, a campaign's amounts at 2^128."""

RowT = TypeVar("RowT", Campaign, SignedRecord)
Row = tuple[Any, ...]
"""A contribution's client, account, tasks, update, signature, score and reward, as stored."""


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
    return Contribution(client, to_address(account), tasks, update, signature, score, int(reward))


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
