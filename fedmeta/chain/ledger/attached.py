"""A campaign that is on the chain already, for whoever looks at it or claims from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmeta.chain.artifact import load_artifact
from fedmeta.chain.keys import open_keys
from fedmeta.chain.ledger.addresses import WrongCampaignError
from fedmeta.chain.ledger.claims import Claimed, Claims
from fedmeta.chain.ledger.contract import Contract, has_code
from fedmeta.chain.ledger.deployment import Deployed
from fedmeta.chain.ledger.entries import Campaign
from fedmeta.chain.ledger.journal import Journal, JournalView
from fedmeta.chain.ledger.recording import Recording
from fedmeta.chain.ledger.restart import JOURNAL
from fedmeta.chain.ledger.session import check_chain
from fedmeta.chain.ledger.terms import Terms
from fedmeta.chain.ledger.transactions import Transactor
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.providers.base import Chain
from fedmeta.chain.providers.opening import open_chain
from fedmeta.errors import UsageError
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
    if not has_code(contract):
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
