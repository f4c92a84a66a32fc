"""Records frozen rounds on the chain, and follows the chain.

The ledger's `nextRound` decides. If it is behind the journal, a reorganisation dropped records, and they
are sent again. If it is ahead, a receipt was lost or others sent a record; its event must match the
journal's rounds, or recording stops.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from web3.types import EventData

from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import ChainError, WrongCampaignError
from fedmeta.chain.keys import Keys, open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL
from fedmeta.chain.settle.deployment import Deployed, attach
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Content, SignedRecord
from fedmeta.chain.settle.transactions import Action, Transactor
from fedmeta.chain.signing import Signer
from fedmeta.chain.typed_data import ledger_domain, record_digest
from fedmeta.errors import UsageError

FAR_BEHIND = 64
"""If more records than this are waiting, they are sent as one."""

MOST_LEAVES = 100_000
"""Most contributions in one record, to bound memory after a long outage."""

_RECORD_GAS = 150_000
_SIGNATURE_GAS = 12_000


def record_gas(threshold: int) -> int:
    """Return a sufficient gas limit for a record with `threshold` signatures."""
    return _RECORD_GAS + threshold * _SIGNATURE_GAS


class VetoedError(WrongCampaignError):
    """The committee vetoed a record of this journal."""


class Recording:
    """Records the rounds of one journal on one deployed ledger.

    Args:
        deployed: The contracts.
        transactor: Sends transactions, and holds the chain and the journal.
        keys: Keys of the sponsor, which sends, and the committee, which signs.
        batch: Rounds per record while the chain keeps up.
    """

    def __init__(self, deployed: Deployed, transactor: Transactor, keys: Keys, batch: int) -> None:
        self.deployed = deployed
        self.ledger = deployed.ledger
        self.terms = deployed.terms
        self.transactor = transactor
        self.journal: Journal = transactor.journal
        self.keys = keys
        self.batch = batch
        chain = transactor.chain
        self._domain = ledger_domain(chain.chain_id, deployed.ledger.address)

    def step(self, draining: bool = False) -> bool:
        """Record the next waiting rounds.

        Args:
            draining: Also record an incomplete batch.

        Returns:
            Whether there was anything to record.

        Raises:
            WrongCampaignError: If the chain's records differ from the journal's rounds, or were vetoed.
            ChainError: See `Transactor.perform`; call again later.
        """
        next_round, epoch = self.follow()
        last = self._last(next_round, draining)
        if last is None:
            return False
        self._record(next_round, last, epoch)
        return True

    def follow(self) -> tuple[int, int]:
        """Update the journal from the chain; return the ledger's next round and epoch."""
        next_round, epoch = self.ledger.many("nextRound", "epoch")
        campaign = self.journal.founded
        if epoch != campaign.epoch:
            self._refuse_vetoed(next_round, epoch)
            self.journal.note("epoch", epoch=epoch)
        recorded = self.journal.recorded
        if next_round <= recorded:
            self.journal.recorded_through(next_round - 1)
        elif next_round > recorded + 1:
            self._adopt(recorded + 1, next_round - 1)
        return next_round, epoch

    def _last(self, next_round: int, draining: bool) -> int | None:
        """Return the last round of the next record; None if there is none to send yet."""
        signed = self.journal.record(next_round)
        if signed:
            # It may already have been sent: a signed record stays the next one.
            return signed.last
        frozen = self.journal.frozen
        waiting = frozen - next_round + 1
        if waiting <= 0 or (waiting < self.batch and not draining):
            return None
        if waiting > FAR_BEHIND * self.batch:
            return self.journal.last_within(next_round, MOST_LEAVES)
        return min(next_round + self.batch - 1, frozen)

    def _record(self, first: int, last: int, epoch: int) -> None:
        signed = self._signed(first, last, epoch)
        data = self.ledger.data("record", signed.stated(), signed.signatures)
        key = f"record {first} to {last}, epoch {epoch}, {self.ledger.address}"
        action = Action(key, self.ledger.address, data, record_gas(self.terms.threshold))

        def done() -> bool:
            return int(self.ledger.call("nextRound")) > last

        if self.transactor.perform(action, self.keys.sponsor, done):
            self.journal.recorded_through(last)

    def _signed(self, first: int, last: int, epoch: int) -> SignedRecord:
        """Return the record with the committee's signatures, stored in the journal."""
        signed = self.journal.record(first)
        if signed and (signed.ledger, signed.epoch) == (self.ledger.address, epoch):
            return signed
        content = self.journal.content(first, last)
        digest = record_digest(self._domain, content.to_sign(self.journal.founded.campaign, epoch))
        signatures = sign_by(self.keys.committee, self.terms.threshold, digest)
        record = SignedRecord(
            **vars(content), ledger=self.ledger.address, epoch=epoch, signatures=signatures
        )
        self.journal.sign(record)
        return record

    def _adopt(self, first: int, last: int) -> None:
        """Store records that are on the chain but not yet mined in the journal."""
        events = self.ledger.events("Recorded", self.journal.founded.block)
        # Events of vetoed records stay in the log; the newest event for a first round counts.
        newest = {int(event["args"]["firstRound"]): event for event in events}
        while first <= last:
            if first not in newest:
                raise ChainError(f"the node has no event of the record that begins with round {first}")
            content = self._checked(newest[first])
            signed = self.journal.record(first)
            if signed is None or signed.last != content.last:
                adopted = SignedRecord(**vars(content), ledger="", epoch=0, signatures=b"", mined=True)
                self.journal.adopt(adopted)
            self.journal.recorded_through(content.last)
            first = content.last + 1

    def _checked(self, event: EventData) -> Content:
        """Return the content of a record on the chain if it matches the journal's rounds."""
        found = recorded_content(event)
        rounds = f"rounds {found.first} to {found.last}"
        if found.last > self.journal.frozen:
            raise WrongCampaignError(
                f"the ledger {self.ledger.address} has a record of {rounds} and this run has "
                f"{self.journal.frozen} frozen rounds: it belongs to another run. Leave chain.addresses "
                "out, deploy to another file (fedmeta chain deploy --to FILE), or start this run's "
                "ledger over (fedmeta resume RUN --new-campaign)"
            )
        difference = found.differs(self.journal.content(found.first, found.last))
        if difference:
            raise WrongCampaignError(
                f"the ledger {self.ledger.address} has a record of {rounds} that is not this run's "
                f"({difference}): nothing more is recorded"
            )
        return found

    def _refuse_vetoed(self, next_round: int, epoch: int) -> None:
        """Raise if a vetoed record matches the journal; other vetoed records are ignored."""
        for event in self.ledger.events("Recorded", self.journal.founded.block):
            found = recorded_content(event)
            if int(event["args"]["epoch"]) >= epoch or found.first < next_round:
                continue
            if found.last <= self.journal.frozen and found == self.journal.content(
                found.first, found.last
            ):
                raise VetoedError(
                    f"the committee vetoed the record of rounds {found.first} to {found.last}: "
                    "nothing more is recorded; --new-campaign starts over"
                )


@contextmanager
def attached(folder: Path, options: ChainOptions, signer: Signer | None = None) -> Iterator[Recording]:
    """Open a run's journal and chain, to send transactions while the run is not in progress.

    Args:
        folder: The run's ``chain`` folder.
        options: Options of the chain.
        signer: Sender; None: the sponsor.

    Raises:
        UsageError: If there is no campaign on the chain, a run is in progress, or keys are missing.
        ChainError: If the node is down.
    """
    if not (folder / JOURNAL).is_file():
        raise UsageError(f"there is no journal in '{folder}'")
    journal = Journal(folder / JOURNAL)
    try:
        with open_chain(options, folder) as chain:
            deployed = attach(journal, chain)
            keys = Keys(signer, (), False) if signer else open_keys(options, chain.chain_id)
            recording = Recording(deployed, Transactor(chain, journal), keys, options.batch)
            recording.follow()
            yield recording
    finally:
        journal.close()


def sign_by(committee: tuple[Signer, ...], threshold: int, digest: bytes) -> bytes:
    """Return the signatures of the first `threshold` members, in the order of `Keys.committee`."""
    return b"".join(member.sign(digest) for member in committee[:threshold])


def recorded_content(event: EventData) -> Content:
    """Return the content of a `Recorded` event."""
    values = event["args"]
    return Content(
        first=values["firstRound"],
        last=values["lastRound"],
        rewards_root=values["rewardsRoot"],
        contributions_root=values["contributionsRoot"],
        model=values["modelHash"],
        evidence=values["evidenceHash"],
        total=values["total"],
    )
