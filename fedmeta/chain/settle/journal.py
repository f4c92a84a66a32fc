"""The journal of a campaign's rounds, records and transactions; each step is durable before the next.

A file belongs to one campaign on one chain, and another chain or ledger is refused. A round is first
*frozen* here. The committee *signs* a record of some rounds; its transaction is *journaled*, *sent*, and
*mined* once its receipt arrives. Rounds never change; in everything else the journal follows the chain.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

from fedmeta.chain.hashing import to_address
from fedmeta.chain.merkle import contributions_tree, rewards_tree
from fedmeta.chain.settle.journal_rows import (
    Campaign,
    Content,
    FrozenRound,
    Row,
    SignedRecord,
    State,
    Transaction,
    contribution,
    insert,
    insert_round,
    is_digest,
    names,
    range_evidence,
    read,
    rows_of,
    written,
)
from fedmeta.chain.settle.store import Reader, Store, damaged
from fedmeta.errors import RunError, UsageError
from fedmeta.options import nearest

_AT_ONCE = 200
"""Rounds read at once."""
_RANGE = "WHERE round BETWEEN ? AND ?"


class JournalView(Reader):
    """Read-only view of a journal."""

    # Rewards of the rounds up to `_added`, which are read and checked only once.
    _added = 0

    @cached_property
    def _units(self) -> Counter[bytes]:
        return Counter()

    @property
    def campaign(self) -> Campaign | None:
        """The journal's campaign; None in a new file."""
        rows = self.rows(f"SELECT {names(Campaign)} FROM campaign")
        return read(Campaign, rows[0]) if rows else None

    @property
    def founded(self) -> Campaign:
        """The journal's campaign; a `UsageError` if the journal is empty."""
        campaign = self.campaign
        if campaign is None:
            raise UsageError(f"{self.path} is empty: its run never began")
        return campaign

    @property
    def frozen(self) -> int:
        """The last frozen round; 0 if there is none."""
        return int(self.rows("SELECT coalesce(max(round), 0) FROM rounds")[0][0])

    def rounds(self, first: int = 1, last: int | None = None) -> Iterator[FrozenRound]:
        """Yield rounds `first` to `last`; None: to the last frozen one.

        Raises:
            DamagedJournalError: If one is missing, or was changed after it was frozen.
        """
        for head, rows in self._rounds(first, self.frozen if last is None else last):
            yield FrozenRound(*head, tuple(map(contribution, rows)))

    def _rounds(self, first: int, last: int) -> Iterator[tuple[tuple[int, bytes, bytes], list[Row]]]:
        """Yield each round's (number, model, evidence) and contribution rows; see `rounds`."""
        for start in range(first, last + 1, _AT_ONCE):
            end = min(start + _AT_ONCE - 1, last)
            heads = self.rows(f"SELECT * FROM rounds {_RANGE} ORDER BY round", (start, end))
            if [row[0] for row in heads] != list(range(start, end + 1)):
                raise damaged(self.path, f"not all of rounds {start} to {end} are there")
            found = self.rows(
                f"SELECT * FROM contributions {_RANGE} ORDER BY round, client", (start, end)
            )
            rows = {number: [row[1:] for row in some] for number, some in groupby(found, lambda r: r[0])}
            for round_, model, evidence, stored in heads:
                head, mine = (round_, model, evidence), rows.get(round_, [])
                if not is_digest(stored, head, mine):
                    raise damaged(self.path, f"round {round_} is not what was frozen")
                yield head, mine

    def _counted(self, first: int, last: int) -> Iterator[tuple[tuple[int, bytes, bytes], list[Row]]]:
        """Yield rounds `first` to `last` as `_rounds` does; add the rewards of those not yet added."""
        if last < self._added:
            self._added = 0
            self._units.clear()
        for head, rows in self._rounds(min(first, self._added + 1), last):
            if head[0] > self._added:
                for _, account, *_, reward in rows:
                    self._units[account] += int(reward)
                self._added = head[0]
            if head[0] >= first:
                yield head, rows

    def rewards(self, last: int) -> dict[str, int]:
        """Return the units that the rounds up to `last` award to each account with any, by account."""
        return {to_address(account): units for account, units in self._rewards(last)}

    def _rewards(self, last: int) -> list[tuple[bytes, int]]:
        deque(self._counted(last + 1, last), maxlen=0)
        return [pair for pair in sorted(self._units.items()) if pair[1]]

    def awarded(self, last: int) -> int:
        """Return the token units that the rounds up to `last` award; any thread may ask."""
        return sum(int(reward) for _, rows in self._rounds(1, last) for *_, reward in rows)

    def content(self, first: int, last: int) -> Content:
        """Return the content of a record of rounds `first` to `last`, which must be frozen."""
        rounds = list(self._counted(first, last))
        rewards = self._rewards(last)
        leaves = (
            (account, head[0], tasks, update, int(reward))
            for head, rows in rounds
            for _, account, tasks, update, _, _, reward in rows
        )
        return Content(
            first,
            last,
            rewards_root=rewards_tree(rewards).root,
            contributions_root=contributions_tree(leaves).root,
            model=rounds[-1][0][1],
            evidence=range_evidence(evidence for (_, _, evidence), _ in rounds),
            total=sum(units for _, units in rewards),
        )

    def last_within(self, first: int, contributions: int) -> int:
        """Return the last round so that those from `first` have at most `contributions`, or `first`."""
        query = """
            SELECT coalesce(max(round), 0) FROM (
                SELECT rounds.round, sum(count(client)) OVER (ORDER BY rounds.round) AS found
                FROM rounds LEFT JOIN contributions USING (round)
                WHERE rounds.round >= ? GROUP BY rounds.round
            ) WHERE found <= ?
        """
        return max(first, int(self.rows(query, (first, contributions))[0][0]))

    def clients(self) -> dict[str, int]:
        """Return the client of each account that contributed to a frozen round."""
        query = "SELECT account, client, max(round) FROM contributions GROUP BY account"
        return {to_address(account): client for account, client, _ in self.rows(query)}

    def account(self, who: str) -> str:
        """Return the account of an address or a client's number; it must have contributed."""
        clients = self.clients()
        for account, client in clients.items():
            if who.lower() == account.lower() or who == str(client):
                return account
        known = [*map(str, clients.values()), *clients]
        raise UsageError(f"'{who}' has not contributed: {nearest(who, known)}")

    def records(self) -> list[SignedRecord]:
        """Return all records, in order of rounds."""
        return self._records("ORDER BY first")

    def on_chain(self) -> list[SignedRecord]:
        """Return the records that were seen on the chain, in order of rounds."""
        return self._records("WHERE mined ORDER BY first")

    def record(self, first: int) -> SignedRecord | None:
        """Return the record that begins with round `first`."""
        return next(iter(self._records("WHERE first = ?", first)), None)

    def _records(self, which: str, *values: object) -> list[SignedRecord]:
        rows = self.rows(f"SELECT {names(SignedRecord)} FROM records {which}", values)
        return [read(SignedRecord, (*row[:-1], bool(row[-1]))) for row in rows]

    @property
    def recorded(self) -> int:
        """The last round with a record seen on the chain; 0 if there is none."""
        return int(self.rows("SELECT coalesce(max(last), 0) FROM records WHERE mined")[0][0])

    def transactions(self, action: str) -> list[Transaction]:
        """Return the transactions signed for an action, in order of signing."""
        return self._transactions("action = ?", action)

    def landed(self) -> list[Transaction]:
        """Return the transactions that are in a block, in order of signing."""
        return self._transactions("state IN ('mined', 'final')")

    def _transactions(self, which: str, *values: object) -> list[Transaction]:
        query = f"SELECT {names(Transaction)} FROM transactions WHERE {which} ORDER BY rowid"
        return [Transaction(*row) for row in self.rows(query, values)]

    def stakes(self) -> dict[str, bytes | None]:
        """Return the accounts with a requested stake, and the evidence (32 bytes) for slashing it."""
        return dict(self.rows("SELECT account, evidence FROM stakes"))


class Journal(JournalView, Store):
    """The journal, open for writing; see `Store` for arguments and errors."""

    def found(self, campaign: Campaign) -> None:
        """Store the journal's campaign."""
        with self.step("campaign") as db:
            insert(db, "INSERT INTO campaign", {"only_one": 1, **vars(campaign)})

    def note(self, step: str, **values: object) -> None:
        """Set fields of the campaign in one step named `step`."""
        with self.step(step) as db:
            assignments = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE campaign SET {assignments}", written(values))

    def freeze(self, rounds: Sequence[FrozenRound]) -> None:
        """Freeze all rounds or none; rounds already frozen with equal content are skipped.

        Raises:
            RunError: If a frozen round would change, or a round would be skipped.
            ValueError: If a round is malformed.
        """
        for frozen in rounds:
            frozen.check()
        with self.step("freeze") as db:
            last = self.frozen
            for frozen in rounds:
                if frozen.round <= last:
                    self._require_same(frozen)
                elif frozen.round != last + 1:
                    raise RunError(f"round {frozen.round} cannot be frozen: round {last + 1} comes next")
                else:
                    insert_round(db, frozen)
                    last = frozen.round

    def _require_same(self, frozen: FrozenRound) -> None:
        given = (frozen.round, frozen.model, frozen.evidence), rows_of(frozen)
        if list(self._rounds(frozen.round, frozen.round)) != [given]:
            raise RunError(
                f"round {frozen.round} was frozen with other results, and a frozen round cannot change: "
                "resume the run that froze it, or start over with --new-campaign"
            )

    def sign(self, record: SignedRecord) -> None:
        """Store a signed record, or one found on the chain, replacing any that overlap its rounds."""
        with self.step("sign" if record.signatures else "adopt") as db:
            db.execute("DELETE FROM records WHERE first <= ? AND last >= ?", (record.last, record.first))
            insert(db, "INSERT INTO records", vars(record))

    def add(self, transaction: Transaction) -> None:
        """Store a signed transaction before it is sent."""
        with self.step("transaction") as db:
            insert(db, "INSERT OR IGNORE INTO transactions", vars(transaction))

    def mark(self, transaction: Transaction, state: State) -> None:
        """Store a transaction's state."""
        with self.step(state) as db:
            db.execute("UPDATE transactions SET state = ? WHERE hash = ?", (state, transaction.hash))

    def mined(self, transaction: Transaction, block_hash: bytes, block_number: int) -> None:
        """Store a transaction's block."""
        with self.step("mined") as db:
            query = "UPDATE transactions SET state = 'mined', block_hash = ?, block_number = ?"
            db.execute(f"{query} WHERE hash = ?", (block_hash, block_number, transaction.hash))

    def stake(self, accounts: Sequence[str]) -> None:
        """Store that these accounts join with a stake; repeated ones are ignored."""
        with self.step("stake") as db:
            query = "INSERT OR IGNORE INTO stakes (account) VALUES (?)"
            db.executemany(query, [(account,) for account in accounts])

    def accuse(self, account: str, evidence: bytes) -> None:
        """Store the evidence for slashing an account's stake; only the first counts."""
        with self.step("accuse") as db:
            query = "UPDATE stakes SET evidence = ? WHERE account = ? AND evidence IS NULL"
            db.execute(query, (evidence, account))

    def recorded_through(self, round_: int) -> None:
        """Store that the chain holds the records up to `round_`, and none after it."""
        with self.step("recorded") as db:
            db.execute("UPDATE records SET mined = (last <= ?)", (round_,))
