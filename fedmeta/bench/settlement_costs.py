"""Measures the gas of records and claims, and the time to settle a large round."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.hashing import from_address, to_address
from fedmeta.chain.keys import open_keys
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.campaign import campaign_id
from fedmeta.chain.settle.claims import claim_all, proofs
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign, Contribution, FrozenRound
from fedmeta.chain.settle.recording import Recording
from fedmeta.chain.settle.transactions import Action

FEW = 10
_ROUNDS = 8
_CLAIM_GAS = 160_000


@dataclass(frozen=True)
class Costs:
    """Measured costs: gas of whole transactions, seconds of wall time.

    Attributes:
        participants: Participants of a large round; a small one has `FEW`.
        first_record_gas: First record of a campaign, of a small round.
        small_record_gas: Later record of a small round.
        large_record_gas: Record of a large round.
        fresh_claim_gas: First claim of an account that never held tokens.
        warm_claim_gas: Later claim of the same account.
        batched_claim_gas: One of a hundred first claims in a transaction.
        settle_seconds: From a frozen large round to its receipt: trees, signatures, transaction.
        settle_processor_seconds: This process's processor time during `settle_seconds`.
    """

    participants: int
    first_record_gas: int
    small_record_gas: int
    large_record_gas: int
    fresh_claim_gas: int
    warm_claim_gas: int
    batched_claim_gas: int
    settle_seconds: float
    settle_processor_seconds: float


def measure_costs(options: ChainOptions, folder: Path, participants: int = 10_000) -> Costs:
    """Run a short campaign with large rounds on a chain, and measure its costs.

    Args:
        options: Options of the chain; by default three of five signatures.
        folder: Empty folder for the journal, and the state of a chain of ours.
        participants: Participants of a large round.
    """
    run = hashlib.sha256(f"costs {time.time_ns()}".encode()).digest()
    with open_chain(options, folder) as chain:
        journal = Journal(folder / "journal.sqlite")
        try:
            return _Campaign(options, journal, chain, run).measure(participants)
        finally:
            journal.close()


class _Campaign:
    def __init__(self, options: ChainOptions, journal: Journal, chain: Chain, run: bytes) -> None:
        pot = options.pot * UNITS
        journal.found(Campaign(campaign_id(run), run, pot, _ROUNDS * pot))
        keys = open_keys(options, chain.chain_id)
        self.recording = Recording(chain, journal, options, keys)
        self.journal, self.chain, self.run, self.pot = journal, chain, run, pot

    def measure(self, participants: int) -> Costs:
        first, small = self.record(FEW), self.record(FEW)
        began = time.perf_counter(), time.process_time()
        large = self.record(participants)
        seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        # The last participants of the large round were not in a small one and hold no tokens.
        fresh = self.claim(participants - 1)
        self.record(participants)
        return Costs(
            participants=participants,
            first_record_gas=first,
            small_record_gas=small,
            large_record_gas=large,
            fresh_claim_gas=fresh,
            warm_claim_gas=self.claim(participants - 1),
            batched_claim_gas=self.claim_many(range(FEW, min(FEW + 100, participants - 1))),
            settle_seconds=seconds[0],
            settle_processor_seconds=seconds[1],
        )

    def record(self, participants: int) -> int:
        """Freeze and record a round; return the gas."""
        self.journal.freeze([self.round(self.journal.frozen + 1, participants)])
        self.recording.step(draining=True)
        return self.gas()

    def round(self, number: int, participants: int) -> FrozenRound:
        digest = hashlib.sha256(self.run + number.to_bytes(8)).digest()
        reward = self.pot // participants
        contributions = (
            Contribution(c, self.account(c), 1, digest, bytes(65), 1.0, reward)
            for c in range(participants)
        )
        return FrozenRound(number, digest, digest, tuple(contributions))

    def account(self, client: int) -> str:
        return "0x" + hashlib.sha256(self.run + client.to_bytes(8)).hexdigest()[:40]

    def claim(self, client: int) -> int:
        """Claim for one client in its own transaction; return the gas."""
        ledger = self.recording.ledger
        mine = proofs(self.journal)[to_address(from_address(self.account(client)))]
        path = [bytes.fromhex(node[2:]) for node in mine.proof]
        data = ledger.data("claim", mine.first_round, mine.account, mine.cumulative, path)
        action = Action(f"claim {data.hex()}", ledger.address, data, _CLAIM_GAS)
        self.recording.transactor.perform(action, self.recording.keys.sponsor, lambda: False)
        return self.gas()

    def claim_many(self, clients: range) -> int:
        """Claim for clients in one transaction; return the gas per client."""
        claim_all(self.recording, [self.account(client) for client in clients])
        return self.gas() // len(clients)

    def gas(self) -> int:
        """Return the gas of the newest transaction."""
        newest = self.journal.landed()[-1]
        (receipt,) = self.chain.receipts([newest.hash])
        return receipt.gas if receipt else 0
