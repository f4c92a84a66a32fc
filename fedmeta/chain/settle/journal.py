"""The journal: what was frozen, signed, sent and mined; each step is on the disk before the next begins.

One file belongs to one campaign on one chain: its id, the chain's genesis hash and the ledger's code
hash stand in it, and a chain or a ledger that differs is refused. A round is *frozen* here first. A
record over some of the rounds is *signed* by the committee, its transaction *journaled* before it is
*sent*, *mined* when its receipt came, and *final* when it is too deep for a reorganisation. Rounds never
change; for the rest the chain alone decides what is true, and the journal follows it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fedmeta.chain.settle.journal_rows import Campaign, SignedRecord, Stake, State, Transaction
from fedmeta.chain.settle.rounds import (
    HEAD_BYTES,
    FrozenRound,
    contributions_in,
    decode,
    encode,
    rewards,
)
from fedmeta.chain.settle.store import Reader, Schema, StepHook, Store, damaged, ignore
from fedmeta.errors import RunError

RowT = TypeVar("RowT", Campaign, SignedRecord)

# SQLite's integers end at 2^63, and a campaign's amounts at 2^128: they are decimal text.
_AMOUNTS = frozenset({"round_cap", "budget", "total"})
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
_OTHERS = """
CREATE TABLE rounds (round INTEGER PRIMARY KEY, digest BLOB NOT NULL, content BLOB NOT NULL);
CREATE TABLE transactions (
    hash BLOB PRIMARY KEY, action TEXT NOT NULL, sender TEXT NOT NULL, nonce INTEGER NOT NULL,
    raw BLOB NOT NULL, state TEXT NOT NULL, block_hash BLOB, block_number INTEGER
);
CREATE TABLE stakes (account TEXT PRIMARY KEY, evidence BLOB);
CREATE INDEX transactions_by_action ON transactions (action);
"""
# Format 1 kept amounts as integers; copied into a column of text they become text.
_FROM_1 = f"""
ALTER TABLE campaign RENAME TO campaign_1;
ALTER TABLE records RENAME TO records_1;
{_CAMPAIGN} {_RECORDS}
INSERT INTO campaign SELECT * FROM campaign_1;
INSERT INTO records SELECT * FROM records_1;
DROP TABLE campaign_1;
DROP TABLE records_1;
"""
_SCHEMA = Schema(2, _CAMPAIGN + _RECORDS + _OTHERS, {1: _FROM_1})


class JournalView:
    """What a journal says, for whoever only reads it.

    Args:
        path: The journal's file.
    """

    def __init__(self, path: Path) -> None:
        self._store: Store | Reader = Reader(path, _SCHEMA)

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._store.path

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @property
    def campaign(self) -> Campaign | None:
        """Whose journal it is; None in a new file."""
        rows = self._store.rows(f"SELECT {_names(Campaign)} FROM campaign")
        return _read(Campaign, rows[0]) if rows else None

    @property
    def frozen(self) -> int:
        """The last frozen round; 0 if there is none."""
        return int(self._store.rows("SELECT coalesce(max(round), 0) FROM rounds")[0][0])

    def contents(self, first: int, last: int) -> list[bytes]:
        """Return the byte forms of rounds `first` to `last`.

        Raises:
            DamagedJournalError: If one is missing, or is not what was frozen.
        """
        query = "SELECT round, digest, content FROM rounds WHERE round BETWEEN ? AND ? ORDER BY round"
        found = self._store.rows(query, (first, last))
        if [row[0] for row in found] != list(range(first, last + 1)):
            raise damaged(self.path, f"not all of rounds {first} to {last} are there")
        for round_, digest, content in found:
            if hashlib.sha256(content).digest() != digest:
                raise damaged(self.path, f"round {round_} is not what was frozen")
        return [content for _, _, content in found]

    def rounds(self, first: int, last: int) -> list[FrozenRound]:
        """Return rounds `first` to `last`; see `contents`."""
        return [decode(content) for content in self.contents(first, last)]

    def rewarded(self, last: int) -> int:
        """Return the token units that the rounds up to `last` award."""
        rows = self._store.rows("SELECT content FROM rounds WHERE round <= ?", (last,))
        return sum(units for (content,) in rows for _, units in rewards(content))

    def last_within(self, first: int, contributions: int) -> int:
        """Return the last round such that those from `first` on have that many contributions together.

        At least `first` itself, however many it has.
        """
        query = "SELECT round, substr(content, 1, ?) FROM rounds WHERE round >= ? ORDER BY round"
        last, found = first, 0
        for round_, head in self._store.rows(query, (HEAD_BYTES, first)):
            found += contributions_in(head)
            if found > contributions:
                break
            last = round_
        return last

    def records(self) -> list[SignedRecord]:
        """Return all records, by rising range."""
        return self._records("ORDER BY first")

    def record(self, first: int) -> SignedRecord | None:
        """Return the record whose range begins with round `first`."""
        return next(iter(self._records("WHERE first = ?", first)), None)

    def _records(self, which: str, *values: object) -> list[SignedRecord]:
        rows = self._store.rows(f"SELECT {_names(SignedRecord)} FROM records {which}", values)
        return [replace(_read(SignedRecord, row), mined=bool(row[-1])) for row in rows]

    @property
    def recorded(self) -> int:
        """The last round that the chain was seen to hold a record of; 0 if there is none."""
        return int(self._store.rows("SELECT coalesce(max(last), 0) FROM records WHERE mined")[0][0])

    def transactions(self, action: str) -> list[Transaction]:
        """Return what was signed for an action, in the order of signing."""
        query = f"SELECT {_names(Transaction)} FROM transactions WHERE action = ? ORDER BY rowid"
        return [Transaction(*row) for row in self._store.rows(query, (action,))]

    def pending(self) -> list[Transaction]:
        """Return the transactions that are neither final nor given up, in the order of signing."""
        query = (
            f"SELECT {_names(Transaction)} FROM transactions "
            "WHERE state IN ('journaled', 'sent', 'mined') ORDER BY rowid"
        )
        return [Transaction(*row) for row in self._store.rows(query)]

    def landed(self) -> list[Transaction]:
        """Return the transactions that are in a block, in the order of signing."""
        query = (
            f"SELECT {_names(Transaction)} FROM transactions "
            "WHERE state IN ('mined', 'final') ORDER BY rowid"
        )
        return [Transaction(*row) for row in self._store.rows(query)]

    def stakes(self) -> list[Stake]:
        """Return the stakes that are to be put down, in the order in which they were asked for."""
        return [Stake(*row) for row in self._store.rows("SELECT account, evidence FROM stakes")]


class Journal(JournalView):
    """The journal, open for writing by this process alone.

    Args:
        path: The file; made if missing.
        hook: Called with ``before STEP`` and ``after STEP`` around each durable step.
    """

    _store: Store

    def __init__(self, path: Path, hook: StepHook = ignore) -> None:
        self._store = Store(path, _SCHEMA, hook)

    def found(self, campaign: Campaign) -> None:
        """Write down whose journal this is."""
        with self._store.step("campaign") as db:
            query = f"INSERT INTO campaign (only_one, {_names(Campaign)}) VALUES (1, {_marks(Campaign)})"
            db.execute(query, _written(vars(campaign)))

    def note(self, step: str, **values: object) -> None:
        """Set some of the campaign's fields in one step named `step`."""
        with self._store.step(step) as db:
            assignments = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE campaign SET {assignments}", _written(values))

    def freeze(self, rounds: Sequence[FrozenRound]) -> None:
        """Freeze rounds, all of them or none; those that are frozen with equal content stay as they are.

        Raises:
            RunError: If a frozen round would change, or a round would be left out.
            ValueError: If a round is malformed.
        """
        contents = [(frozen.round, encode(frozen)) for frozen in rounds]
        with self._store.step("freeze") as db:
            last = self.frozen
            for round_, content in contents:
                if round_ <= last:
                    self._same(round_, content)
                elif round_ != last + 1:
                    raise RunError(f"round {round_} cannot be frozen: round {last + 1} comes next")
                else:
                    values = (round_, hashlib.sha256(content).digest(), content)
                    db.execute("INSERT INTO rounds (round, digest, content) VALUES (?, ?, ?)", values)
                    last = round_

    def _same(self, round_: int, content: bytes) -> None:
        if self.contents(round_, round_) != [content]:
            raise RunError(
                f"round {round_} was frozen with other results, and a frozen round cannot change: "
                "go on with the run that froze it, or start over with --new-campaign"
            )

    def sign(self, record: SignedRecord) -> None:
        """Write down a record with its signatures, in place of any over the same rounds."""
        self._put("sign", record)

    def adopt(self, record: SignedRecord) -> None:
        """Write down a record that the chain holds and that this journal has not sent."""
        self._put("adopt", record)

    def _put(self, step: str, record: SignedRecord) -> None:
        with self._store.step(step) as db:
            db.execute("DELETE FROM records WHERE first <= ? AND last >= ?", (record.last, record.first))
            query = f"INSERT INTO records ({_names(SignedRecord)}) VALUES ({_marks(SignedRecord)})"
            db.execute(query, _written(vars(record)))

    def add(self, transaction: Transaction) -> None:
        """Write down a signed transaction before it is sent."""
        with self._store.step("transaction") as db:
            names, marks = _names(Transaction), _marks(Transaction)
            query = f"INSERT OR IGNORE INTO transactions ({names}) VALUES ({marks})"
            db.execute(query, tuple(vars(transaction).values()))

    def mark(self, transaction: Transaction, state: State) -> None:
        """Write down how far a transaction came."""
        with self._store.step(state) as db:
            db.execute("UPDATE transactions SET state = ? WHERE hash = ?", (state, transaction.hash))

    def mined(self, transaction: Transaction, block_hash: bytes, block_number: int) -> None:
        """Write down the block that holds a transaction."""
        with self._store.step("mined") as db:
            query = "UPDATE transactions SET state = 'mined', block_hash = ?, block_number = ?"
            db.execute(f"{query} WHERE hash = ?", (block_hash, block_number, transaction.hash))

    def stake(self, accounts: Sequence[str]) -> None:
        """Write down that these accounts join with a stake; those that are there already stay."""
        with self._store.step("stake") as db:
            query = "INSERT OR IGNORE INTO stakes (account) VALUES (?)"
            db.executemany(query, [(account,) for account in accounts])

    def accuse(self, account: str, evidence: bytes) -> None:
        """Write down what an account's stake is to be slashed for; the first evidence stays."""
        with self._store.step("accuse") as db:
            query = "UPDATE stakes SET evidence = ? WHERE account = ? AND evidence IS NULL"
            db.execute(query, (evidence, account))

    def recorded_through(self, round_: int) -> None:
        """Follow the chain: it holds the records up to `round_`, and none after it."""
        with self._store.step("recorded") as db:
            db.execute("UPDATE records SET mined = (last <= ?)", (round_,))


def _written(values: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(str(value) if name in _AMOUNTS else value for name, value in values.items())


def _read(kind: type[RowT], row: Sequence[Any]) -> RowT:
    fields = zip(kind.__dataclass_fields__, row, strict=True)
    try:
        values: list[Any] = [int(value) if name in _AMOUNTS else value for name, value in fields]
    except (ValueError, TypeError):
        raise RunError("the journal is damaged: it holds an amount that is no number") from None
    return kind(*values)


def _names(kind: type[Any]) -> str:
    return ", ".join(kind.__dataclass_fields__)


def _marks(kind: type[Any]) -> str:
    return ", ".join("?" for _ in kind.__dataclass_fields__)
