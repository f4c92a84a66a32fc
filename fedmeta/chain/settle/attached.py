"""What is done with a deployed campaign while no run is in progress: claims, proofs and stakes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.contracts import Contract, load_artifact
from fedmeta.chain.errors import WrongCampaignError
from fedmeta.chain.keys import Keys, open_client_keys, open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL, check_chain
from fedmeta.chain.settle.claims import Claimed, Claims, Proof, proofs
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.recording import Recording
from fedmeta.chain.settle.staking import Stakes
from fedmeta.chain.settle.terms import Terms
from fedmeta.chain.settle.transactions import Transactor
from fedmeta.chain.signing import Signer
from fedmeta.errors import UsageError

StakeStep = Literal["join", "leave", "withdraw"]


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
def attached(folder: Path, options: ChainOptions, signer: Signer | None = None) -> Iterator[Recording]:
    """Open a run's journal and its chain, to send something for it while no run is in progress.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.
        signer: Who sends it; None: the sponsor.

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
            keys = Keys(signer, (), False) if signer else open_keys(options, chain.chain_id)
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
        accounts = None if who is None else [recording.journal.account(who)]
        return Claims(recording).claim(accounts)


def prove(folder: Path, who: str) -> Proof:
    """Return what an account needs to claim for itself, from the run's journal alone.

    Args:
        folder: The run's ``chain`` folder.
        who: An address or a client's number.

    Raises:
        UsageError: If nobody of that name contributed, or no record on the chain awards it anything.
    """
    with closing(JournalView(folder / JOURNAL)) as journal:
        account = journal.account(who)
        found = proofs(journal).get(account)
    if found is None:
        raise UsageError(f"{account}: no record on the chain awards it anything")
    return found


def stake(folder: Path, options: ChainOptions, step: StakeStep, who: str, signer: Signer | None) -> str:
    """Join, leave or withdraw by stake, and return the account; errors as of `attached`.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.
        step: What to do.
        who: The account: an address, or a client's number; empty: the signer's.
        signer: Whose key signs and pays; None: the sponsor, and for a simulation's client who leaves the
            client itself.

    Raises:
        UsageError: If the campaign has no registry, or the account is not known.
        RevertedError: If the contract refuses, such as a stake whose unbonding delay still runs.
    """
    with attached(folder, options, signer) as recording:
        registry, journal = recording.deployed.registry, recording.journal
        if registry is None:
            raise UsageError(f"{journal.path}: this campaign has no stakes (chain.staking.enabled)")
        account = who if who.startswith("0x") else ""
        account = account or (signer.address if signer and not who else journal.account(who))
        stakes = Stakes(recording, recording.deployed.token, registry, signer)
        if step == "join":
            stakes.join(account)
        elif step == "withdraw":
            stakes.withdraw(account)
        else:
            stakes.leave(signer or _client(recording, options, account))
        return account


def _client(recording: Recording, options: ChainOptions, account: str) -> Signer:
    """Return the signer of a simulation's client.

    Raises:
        UsageError: If it is not a client of this simulation.
    """
    journal = recording.journal
    campaign, client = journal.campaign, journal.clients().get(account)
    if campaign is not None and client is not None:
        chain_id = recording.transactor.chain.chain_id
        signer = open_client_keys(options, chain_id, campaign.run).signer(client)
        if signer.address == account:
            return signer
    raise UsageError(f"{account} is not a client of this simulation: it leaves with its own --key")
