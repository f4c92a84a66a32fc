"""Claims participants' awards in batches; the ledger pays only them, whoever sends the claim."""

from collections.abc import Iterator, Mapping, Sequence
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
    """Result of a claim.

    Attributes:
        accounts: Number of accounts paid.
        units: Total token units paid.
        waiting: Units in records that are not claimable yet, during their challenge delay.
    """

    accounts: int
    units: int
    waiting: int


@dataclass(frozen=True)
class Proof:
    """Arguments of the ledger's ``claim``, with which an account claims for itself.

    Attributes:
        ledger: Address of the ledger.
        first_round: First round of the record to claim under.
        account: The account to pay.
        cumulative: Reward since the campaign's start in token units; earlier claims are deducted.
        proof: Merkle proof, 0x text of 32 bytes each.
    """

    ledger: str
    first_round: int
    account: str
    cumulative: int
    proof: tuple[str, ...]


def proofs(journal: JournalView) -> dict[str, Proof]:
    """Return the proof of each account with a reward in the newest record on the chain."""
    records = [record for record in journal.records() if record.mined]
    ledger = journal.founded.ledger
    if not records or ledger is None:
        return {}
    newest = records[-1]
    rewards = journal.rewards(newest.last)
    tree = rewards_tree(rewards.items())

    def proof(account: str, units: int) -> Proof:
        path = tree.proof(reward_leaf(account, units))
        return Proof(ledger, newest.first, account, units, tuple(f"0x{node.hex()}" for node in path))

    return {account: proof(account, units) for account, units in rewards.items()}


@dataclass(frozen=True)
class _Claim:
    account: str
    cumulative: int
    units: int


class Claims:
    """Claims under the records of one journal.

    Args:
        recording: Gives the ledger, the journal and the rewards.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.ledger = recording.ledger

    def claim(self, accounts: Sequence[str] | None = None) -> Claimed:
        """Claim for some accounts, or for all; safe to repeat.

        Args:
            accounts: Addresses; None: all with a reward.

        Raises:
            ChainError: See `Transactor.perform`; call again later.
        """
        record, waiting = self._newest_claimable()
        if record is None:
            return Claimed(0, 0, waiting)
        rewards = self.recording.journal.rewards(record.last)
        chosen = rewards if accounts is None else _only(rewards, accounts)
        claims = list(self._open(chosen))
        if claims:
            tree = rewards_tree(rewards.items())
            proofs = {d.account: tree.proof(reward_leaf(d.account, d.cumulative)) for d in claims}
            for batch in chunks(claims, IN_ONE_TRANSACTION):
                self._pay(record, batch, proofs)
        return Claimed(len(claims), sum(one.units for one in claims), waiting)

    def single(self, account: str) -> Action:
        """Return an account's own claim under the newest record."""
        record = self.recording.journal.records()[-1]
        rewards = self.recording.journal.rewards(record.last)
        cumulative = rewards[to_address(from_address(account))]
        proof = rewards_tree(rewards.items()).proof(reward_leaf(account, cumulative))
        data = self.ledger.data("claim", record.first, account, cumulative, proof)
        key = f"claim {keccak(data).hex()[:32]}"
        return Action(key, self.ledger.address, data, _BASE_GAS + _CLAIM_GAS)

    def _newest_claimable(self) -> tuple[SignedRecord | None, int]:
        """Return the newest record past its challenge delay, and the units of the records after it."""
        records = [r for r in self.recording.journal.records() if r.mined]
        total = records[-1].total if records else 0
        for record in reversed(records):
            _, claimable_at, _ = self.ledger.call("entries", record.first, record.rewards_root)
            if claimable_at and self.recording.transactor.chain.is_past(claimable_at):
                return record, total - record.total
        return None, total

    def _open(self, rewards: Mapping[str, int]) -> Iterator[_Claim]:
        claimed = self.ledger.each("claimed", list(rewards))
        for account, cumulative in rewards.items():
            if cumulative > claimed[account]:
                yield _Claim(account, cumulative, cumulative - claimed[account])

    def _pay(
        self, record: SignedRecord, batch: Sequence[_Claim], proofs: Mapping[str, list[bytes]]
    ) -> None:
        claims = [(one.account, one.cumulative, proofs[one.account]) for one in batch]
        data = self.ledger.data("claimMany", record.first, claims)
        key = f"claim {keccak(data).hex()[:32]}"
        action = Action(key, self.ledger.address, data, _BASE_GAS + _CLAIM_GAS * len(batch))

        def done() -> bool:
            claimed = self.ledger.each("claimed", [one.account for one in batch])
            return all(claimed[one.account] >= one.cumulative for one in batch)

        recording = self.recording
        recording.transactor.perform(action, recording.keys.sponsor, done)


def _only(rewards: Mapping[str, int], accounts: Sequence[str]) -> dict[str, int]:
    wanted = {account.lower() for account in accounts}
    return {account: units for account, units in rewards.items() if account.lower() in wanted}


def claim(folder: Path, options: ChainOptions, who: str | None = None) -> Claimed:
    """Claim the awards of a run's participants; see `attached` for errors.

    Args:
        folder: The run's ``chain`` folder.
        options: Options of the chain.
        who: An address or a client's number; None: all participants.

    Raises:
        UsageError: If `who` did not contribute.
    """
    with attached(folder, options) as recording:
        accounts = None if who is None else [recording.journal.account(who)]
        return Claims(recording).claim(accounts)


def prove(folder: Path, who: str) -> Proof:
    """Return the arguments of an account's own claim, from the run's journal alone.

    Args:
        folder: The run's ``chain`` folder.
        who: An address or a client's number.

    Raises:
        UsageError: If `who` did not contribute, or no record on the chain awards it anything.
    """
    with closing(JournalView(folder / JOURNAL)) as journal:
        account = journal.account(who)
        found = proofs(journal).get(account)
    if found is None:
        raise UsageError(f"{account}: no record on the chain awards it anything")
    return found
