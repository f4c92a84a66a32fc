"""Records frozen rounds on the chain, and follows the chain.

The ledger's `nextRound` decides. If it is behind the journal, a reorganisation dropped records, and they
are sent again. If it is ahead, a receipt was lost or others sent a record; its event must match the
journal's rounds, or recording stops.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from web3.types import EventData

from fedmeta.chain.chain import open_chain
from fedmeta.chain.contracts import Contract
from fedmeta.chain.errors import ChainError, WrongCampaignError
from fedmeta.chain.keys import Keys, open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL
from fedmeta.chain.settle.deployment import Deployment, attach
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Content, SignedRecord
from fedmeta.chain.settle.transactions import Action
from fedmeta.chain.signing import Signer, ledger_domain
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


class Recording(Deployment):
    """Records a campaign's frozen rounds."""

    def forget(self) -> None:
        """Forget the contracts, as a chain that was rolled back has lost them: deploy them again."""
        vars(self).pop("deployed", None)

    @property
    def ledger(self) -> Contract:
        """The ledger."""
        return self.deployed.ledger

    def step(self, draining: bool = False) -> bool:
        """Record the next waiting rounds (`draining`: also an incomplete batch); return whether any did.

        Raises:
            WrongCampaignError: If the chain's records differ from the journal's rounds, or were vetoed.
            ChainError: See `Transactor.perform`; call again later.
        """
        next_round, epoch = self.follow()
        last = self._last(next_round, draining)
        if last is not None:
            self._record(next_round, last, epoch)
        return last is not None

    def follow(self) -> tuple[int, int]:
        """Update the journal from the chain; return the ledger's next round and epoch."""
        next_round, epoch = self.ledger.many("nextRound", "epoch")
        if epoch != self.journal.founded.epoch:
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
        frozen, batch = self.journal.frozen, self.options.batch
        waiting = frozen - next_round + 1
        if waiting <= 0 or (waiting < batch and not draining):
            return None
        if waiting > FAR_BEHIND * batch:
            return self.journal.last_within(next_round, MOST_LEAVES)
        return min(next_round + batch - 1, frozen)

    def _record(self, first: int, last: int, epoch: int) -> None:
        ledger = self.ledger
        signed = self._signed(first, last, epoch)
        data = ledger.data("record", signed.struct(), signed.signatures)
        key = f"record {first} to {last}, epoch {epoch}, {ledger.address}"
        action = Action(key, ledger.address, data, record_gas(self.deployed.terms.threshold))

        def done() -> bool:
            return int(ledger.call("nextRound")) > last

        if self.transactor.perform(action, self.keys.sponsor, done):
            self.journal.recorded_through(last)

    def _signed(self, first: int, last: int, epoch: int) -> SignedRecord:
        """Return the record with the committee's signatures, stored in the journal."""
        address, signed = self.ledger.address, self.journal.record(first)
        if signed and (signed.ledger, signed.epoch) == (address, epoch):
            return signed
        content, domain = self.journal.content(first, last), ledger_domain(self.chain.chain_id, address)
        digest = content.digest(domain, self.journal.founded.campaign, epoch)
        signatures = self.keys.sign(self.deployed.terms.threshold, digest)
        record = SignedRecord(**vars(content), ledger=address, epoch=epoch, signatures=signatures)
        self.journal.sign(record)
        return record

    def _adopt(self, first: int, last: int) -> None:
        """Store records that are on the chain but not yet mined in the journal."""
        for event in newest_records(self.ledger, self.journal.founded.block, first, last):
            content = self._checked(event)
            signed = self.journal.record(content.first)
            if signed is None or signed.last != content.last:
                self.journal.sign(
                    SignedRecord(**vars(content), ledger="", epoch=0, signatures=b"", mined=True)
                )
            self.journal.recorded_through(content.last)

    def _checked(self, event: EventData) -> Content:
        """Return the content of a record on the chain if it matches the journal's rounds."""
        found = recorded_content(event)
        if found.last > self.journal.frozen:
            raise WrongCampaignError(
                f"the ledger {self.ledger.address} has a record of {found.rounds} and this run has "
                f"{self.journal.frozen} frozen rounds: it belongs to another run. Leave chain.addresses "
                "out, deploy to another file (fedmeta chain deploy --to FILE), or start this run's "
                "ledger over (fedmeta resume RUN --new-campaign)"
            )
        difference = found.differs(self.journal.content(found.first, found.last))
        if difference:
            raise WrongCampaignError(
                f"the ledger {self.ledger.address} has a record of {found.rounds} that is not this "
                f"run's ({difference}): nothing more is recorded"
            )
        return found

    def _refuse_vetoed(self, next_round: int, epoch: int) -> None:
        """Raise if a vetoed record matches the journal; other vetoed records are ignored."""
        for event in self.ledger.events("Recorded", self.journal.founded.block):
            found = recorded_content(event)
            if event["args"]["epoch"] >= epoch or found.first < next_round:
                continue
            if found.last <= self.journal.frozen and found == self.journal.content(
                found.first, found.last
            ):
                raise WrongCampaignError(
                    f"the committee vetoed the record of {found.rounds}: "
                    "nothing more is recorded; --new-campaign starts over"
                )


@contextmanager
def attached(folder: Path, options: ChainOptions, signer: Signer | None = None) -> Iterator[Recording]:
    """Open a run's journal and chain, to send transactions while the run is not in progress.

    The `signer` sends; None: the sponsor.

    Raises:
        UsageError: If there is no campaign on the chain, a run is in progress, or keys are missing.
        ChainError: If the node is down.
    """
    if not (folder / JOURNAL).is_file():
        raise UsageError(f"there is no journal in '{folder}'")
    with closing(Journal(folder / JOURNAL)) as journal, open_chain(options, folder) as chain:
        deployed = attach(journal, chain)
        keys = Keys(signer, ()) if signer else open_keys(options, chain.chain_id)
        recording = Recording(chain, journal, options, keys)
        recording.deployed = deployed
        recording.follow()
        yield recording


def newest_records(ledger: Contract, since: int, first: int, last: int) -> Iterator[EventData]:
    """Yield the events of the records of rounds `first` to `last`, in order.

    Events of vetoed records stay in the log; the newest event for a first round counts.
    """
    newest = {event["args"]["firstRound"]: event for event in ledger.events("Recorded", since)}
    while first <= last:
        if first not in newest:
            raise ChainError(f"the node has no event of the record that begins with round {first}")
        yield newest[first]
        first = newest[first]["args"]["lastRound"] + 1


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
