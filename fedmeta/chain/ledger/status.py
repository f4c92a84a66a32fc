"""How a campaign stands: what is recorded, what waits, who was awarded and paid how much."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedmeta.chain.ledger.attached import attach, clients_of
from fedmeta.chain.ledger.claims import claimed_by
from fedmeta.chain.ledger.deployment import Deployed
from fedmeta.chain.ledger.journal import JournalView
from fedmeta.chain.ledger.restart import JOURNAL
from fedmeta.chain.ledger.totals import Totals
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.providers.opening import open_chain
from fedmeta.errors import FedmetaError, UsageError


@dataclass(frozen=True)
class Participant:
    """One account; amounts in token units.

    Attributes:
        client: Its partition id.
        account: Its address.
        frozen: Awarded by all frozen rounds.
        awarded: Of that, in records that the chain holds.
        claimed: Of that, claimed; None if the chain is away.
        unclaimed: What it can still claim, now or when the challenge delay is over.
    """

    client: int
    account: str
    frozen: int
    awarded: int
    claimed: int | None = None

    @property
    def unclaimed(self) -> int | None:
        """Awarded and not claimed."""
        return None if self.claimed is None else self.awarded - self.claimed


@dataclass(frozen=True)
class Escrow:
    """The ledger's account, as the chain has it, in token units.

    Attributes:
        funded: Put into escrow so far.
        awarded: Awarded by records, and the unit that the ledger keeps.
        paid: Paid to participants.
        next_round: Round with which the next record begins.
        epoch: Vetoes so far.
        deadline: Chain time until which the sponsor cannot take anything back.
    """

    funded: int
    awarded: int
    paid: int
    next_round: int
    epoch: int
    deadline: int


@dataclass(frozen=True)
class Status:
    """How a campaign stands.

    Attributes:
        campaign: Its id, 0x text.
        run: The run's id, 0x text.
        chain_id: Of its chain; None if it never reached one. Likewise the addresses.
        pot: Most that a round pays, token units.
        budget: That was to be put into escrow.
        frozen: Last frozen round.
        recorded: Last round that the journal saw on the chain.
        escrow: None if the chain is away, and then `problem` says why.
        participants: By client.
        problem: Why the chain's side is missing, in one line.
    """

    campaign: str
    run: str
    chain_id: int | None
    token: str | None
    ledger: str | None
    registry: str | None
    pot: int
    budget: int
    frozen: int
    recorded: int
    escrow: Escrow | None
    participants: tuple[Participant, ...]
    problem: str | None

    @property
    def waiting(self) -> int:
        """Frozen rounds that are not recorded."""
        return self.frozen - self.recorded


def status(folder: Path, options: ChainOptions) -> Status:
    """Return how the campaign of a run stands; works while the run is in progress.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.

    Raises:
        UsageError: If there is no journal.
        RunError: If it is damaged.
    """
    journal = JournalView(folder / JOURNAL)
    try:
        found = _from_journal(journal)
        try:
            with open_chain(options, folder) as chain:
                return _with_chain(found, attach(journal, chain))
        except FedmetaError as error:
            return replace(found, problem=str(error))
    finally:
        journal.close()


def _from_journal(journal: JournalView) -> Status:
    campaign = journal.campaign
    if campaign is None:
        raise UsageError(f"{journal.path} is empty: its run never began")
    frozen, recorded = journal.frozen, journal.recorded
    return Status(
        campaign=f"0x{campaign.campaign.hex()}",
        run=f"0x{campaign.run.hex()}",
        chain_id=campaign.chain_id,
        token=campaign.token,
        ledger=campaign.ledger,
        registry=campaign.registry,
        pot=campaign.round_cap,
        budget=campaign.budget,
        frozen=frozen,
        recorded=recorded,
        escrow=None,
        participants=_participants(journal, frozen, recorded),
        problem=None,
    )


def _participants(journal: JournalView, frozen: int, recorded: int) -> tuple[Participant, ...]:
    at_record, at_end = _awarded(journal, recorded), _awarded(journal, frozen)
    clients = sorted(clients_of(journal).items(), key=lambda pair: pair[1])
    return tuple(
        Participant(client, account, at_end.get(account, 0), at_record.get(account, 0))
        for account, client in clients
    )


def _awarded(journal: JournalView, last: int) -> Mapping[str, int]:
    totals = Totals()
    totals.add(journal.contents(1, last))
    return totals.by_account()


def _with_chain(found: Status, deployed: Deployed) -> Status:
    names = ("funded", "awarded", "paid", "nextRound", "epoch", "deadline")
    escrow = Escrow(*(int(value) for value in deployed.ledger.many(*names)))
    claimed = claimed_by(deployed.ledger, [p.account for p in found.participants])
    participants = tuple(replace(p, claimed=claimed[p.account]) for p in found.participants)
    return replace(found, escrow=escrow, participants=participants)
