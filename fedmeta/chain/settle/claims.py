"""Claims participants' awards in batches; the ledger pays only them, whoever sends the claim."""

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedmeta.chain.contracts import chunks
from fedmeta.chain.hashing import from_address, keccak, to_address
from fedmeta.chain.merkle import reward_leaf, rewards_tree
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import SignedRecord
from fedmeta.chain.settle.recording import Recording, attached
from fedmeta.chain.settle.transactions import Action
from fedmeta.errors import UsageError

IN_ONE_TRANSACTION = 100
_BASE_GAS = 60_000
_CLAIM_GAS = 100_000


@dataclass(frozen=True)
class Claimed:
    """Result of a claim: the number of accounts paid, and token units."""

    accounts: int
    units: int
    waiting: int  # In records that are not claimable yet, during their challenge delay.


@dataclass(frozen=True)
class Proof:
    """Arguments of the ledger's ``claim``, with which an account claims for itself.

    Attributes:
        first_round: First round of the record to claim under.
        cumulative: Reward since the campaign's start in token units; earlier claims are deducted.
        proof: Merkle proof, 0x text of 32 bytes each.
    """

    ledger: str
    first_round: int
    account: str
    cumulative: int
    proof: tuple[str, ...]


def proofs(journal: JournalView, record: SignedRecord | None = None) -> dict[str, Proof]:
    """Return the proof of each account with a reward in a record; None: the newest on the chain."""
    record, ledger = record or next(reversed(journal.on_chain()), None), journal.founded.ledger
    if record is None or ledger is None:
        return {}
    rewards = journal.rewards(record.last)
    tree, found = rewards_tree(rewards.items()), {}
    for account, units in rewards.items():
        path = tuple(f"0x{node.hex()}" for node in tree.proof(reward_leaf(account, units)))
        found[account] = Proof(ledger, record.first, account, units, path)
    return found


def claim_all(recording: Recording, accounts: Collection[str] | None = None) -> Claimed:
    """Claim for some accounts, or all, under the newest claimable record; safe to repeat."""
    record, waiting = _newest_claimable(recording)
    if record is None:
        return Claimed(0, 0, waiting)
    known = proofs(recording.journal, record)
    wanted = known if accounts is None else {to_address(from_address(one)) for one in accounts}
    chosen = [account for account in known if account in wanted]
    claimed = recording.ledger.each("claimed", chosen)
    due = [known[one] for one in chosen if known[one].cumulative > claimed[one]]
    for batch in chunks(due, IN_ONE_TRANSACTION):
        _pay(recording, batch)
    return Claimed(len(due), sum(one.cumulative - claimed[one.account] for one in due), waiting)


def _newest_claimable(recording: Recording) -> tuple[SignedRecord | None, int]:
    """Return the newest record past its challenge delay, and the units of the records after it."""
    records = recording.journal.on_chain()
    total = records[-1].total if records else 0
    for record in reversed(records):
        _, claimable_at, _ = recording.ledger.call("entries", record.first, record.rewards_root)
        if claimable_at and recording.chain.is_past(claimable_at):
            return record, total - record.total
    return None, total


def _pay(recording: Recording, batch: Sequence[Proof]) -> None:
    ledger = recording.ledger
    claims = [(p.account, p.cumulative, [bytes.fromhex(node[2:]) for node in p.proof]) for p in batch]
    data = ledger.data("claimMany", batch[0].first_round, claims)
    gas = _BASE_GAS + _CLAIM_GAS * len(batch)

    def done() -> bool:
        claimed = ledger.each("claimed", [one.account for one in batch])
        return all(claimed[one.account] >= one.cumulative for one in batch)

    action = Action(f"claim {keccak(data).hex()[:32]}", ledger.address, data, gas)
    recording.transactor.perform(action, recording.keys.sponsor, done)


def claim(folder: Path, options: ChainOptions, who: str | None = None) -> Claimed:
    """Claim a run's awards for all, or an address or a client's number; see `attached` for errors."""
    with attached(folder, options) as recording:
        return claim_all(recording, None if who is None else [recording.journal.account(who)])


def prove(folder: Path, who: str) -> Proof:
    """Return the arguments of an account's own claim, from the run's journal alone.

    Raises:
        UsageError: If `who` did not contribute, or no record on the chain awards it anything.
    """
    with closing(JournalView(folder / JOURNAL)) as journal:
        account = journal.account(who)
        found = proofs(journal).get(account)
    if found is None:
        raise UsageError(f"{account}: no record on the chain awards it anything")
    return found
