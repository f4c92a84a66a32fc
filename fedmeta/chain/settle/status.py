"""A deployed campaign: how it stands, what is recorded, awarded and paid."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.contracts import Contract, load_artifact
from fedmeta.chain.keys import open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.addresses import WrongCampaignError
from fedmeta.chain.settle.claims import Claimed, Claims
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.recording import Recording
from fedmeta.chain.settle.rounds import Totals
from fedmeta.chain.settle.session import check_chain
from fedmeta.chain.settle.terms import JOURNAL, Terms
from fedmeta.chain.settle.transactions import Transactor
from fedmeta.errors import FedmetaError, UsageError
from fedmeta.options import nearest

_AT_ONCE = 200


def attach(journal: JournalView, chain: Chain) -> Deployed:
    """Return the contracts of a journal's campaign, which must be on the chain.

    Raises:
        WrongCampaignError: If it is another chain, or there are no such contracts on it.
        UsageError: If the campaign was never deployed.
    """
    campaign = journal.campaign
    if campaign is None or not campaign.ledger or not campaign.token or not campaign.terms:
        raise UsageError(f"{journal.path}: nothing of this campaign is on a chain yet")
    check_chain(journal.path, campaign, chain)
    token, ledger = _contract(chain, "FedToken", campaign.token), _ledger(chain, campaign)
    registry = None
    if campaign.registry:
        registry = _contract(chain, "ParticipantRegistry", campaign.registry)
    return Deployed(token, ledger, registry, Terms.from_json(campaign.terms))


def _ledger(chain: Chain, campaign: Campaign) -> Contract:
    ledger = _contract(chain, "RewardLedger", str(campaign.ledger))
    if campaign.code != ledger.artifact.code_hash:
        raise WrongCampaignError("the campaign's ledger was deployed by another version of fedmeta")
    return ledger


def _contract(chain: Chain, name: str, address: str) -> Contract:
    contract = Contract(chain, load_artifact(name), address)
    if not contract.exists:
        raise WrongCampaignError(
            f"there is no {name} of this version of fedmeta at {address} on chain {chain.chain_id}"
        )
    return contract


@contextmanager
def attached(folder: Path, options: ChainOptions) -> Iterator[Recording]:
    """Open a run's journal and its chain, to send something for it while no run is in progress.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.

    Raises:
        UsageError: If there is no campaign on the chain, a run is in progress, or keys are missing.
        ChainError: If the node is away.
    """
    if not (folder / JOURNAL).is_file():
        raise UsageError(f"there is no journal in '{folder}'")
    journal = Journal(folder / JOURNAL)
    try:
        with open_chain(options, folder) as chain:
            deployed = attach(journal, chain)
            keys = open_keys(options, chain.chain_id)
            recording = Recording(deployed, Transactor(chain, journal), keys, options.batch)
            recording.follow()
            yield recording
    finally:
        journal.close()


def claim(folder: Path, options: ChainOptions, who: str | None = None) -> Claimed:
    """Claim what participants of a run have earned; see `attached` for errors.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.
        who: An address or a client's number; None: everybody.

    Raises:
        UsageError: If nobody of that name contributed.
    """
    with attached(folder, options) as recording:
        accounts = None if who is None else [account_of(recording.journal, who)]
        return Claims(recording).claim(accounts)


def account_of(journal: JournalView, who: str) -> str:
    """Return the account that `who` names: an address, or a client's number.

    Raises:
        UsageError: If it contributed to no frozen round.
    """
    clients = clients_of(journal)
    for account, client in clients.items():
        if who.lower() == account.lower() or who == str(client):
            return account
    numbers = [str(client) for client in clients.values()]
    raise UsageError(f"nobody called '{who}' has contributed: {nearest(who, [*numbers, *clients])}")


def clients_of(journal: JournalView) -> dict[str, int]:
    """Return the client behind each account that contributed to a frozen round."""
    found: dict[str, int] = {}
    for first in range(1, journal.frozen + 1, _AT_ONCE):
        for frozen in journal.rounds(first, min(first + _AT_ONCE - 1, journal.frozen)):
            found |= {c.account: c.client for c in frozen.contributions}
    return found


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
    claimed = deployed.ledger.each("claimed", [p.account for p in found.participants])
    participants = tuple(replace(p, claimed=claimed[p.account]) for p in found.participants)
    return replace(found, escrow=escrow, participants=participants)
