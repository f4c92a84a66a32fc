"""`fedmeta chain deploy`: deploys a campaign's contracts before its run, and writes their addresses."""

from contextlib import closing
from pathlib import Path

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.contracts import Contract, load_artifact
from fedmeta.chain.errors import PoorAccountError, WrongCampaignError
from fedmeta.chain.keys import Keys, open_keys
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.campaign import campaign_id
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.recording import Recording
from fedmeta.chain.settle.terms import Addresses, check_deployed
from fedmeta.errors import UsageError
from fedmeta.files import write_atomically


def deploy_to_file(
    path: Path, options: ChainOptions, run: bytes, budget: int, folder: Path
) -> tuple[Addresses, bool]:
    """Deploy a campaign and write its addresses, unless this was done before.

    Safe to kill at any point and run again: until the file is written, a journal beside it records the
    transactions. An existing file is only checked against the chain and the options.

    Args:
        path: The addresses file.
        options: Options of the chain, including the terms of the campaign.
        run: Id of the campaign's run, 32 bytes.
        budget: Token units in escrow.
        folder: State folder of a chain of ours; unused for a URL.

    Returns:
        The addresses, and whether they are new.

    Raises:
        UsageError: No node, missing keys, an account without funds, or a file of another chain, another
            version's contracts, or a campaign with other terms.
        ChainError: If the node fails meanwhile; run it again.
    """
    campaign = Campaign(campaign_id(run), run, options.pot * UNITS, budget)
    with open_chain(options, folder) as chain:
        keys = open_keys(options, chain.chain_id)
        if path.exists():
            addresses, _ = check_deployed(path, chain, options, keys, campaign)
            ledger = Contract(chain, load_artifact("RewardLedger"), addresses.ledger)
            if ledger.call("funded") < budget:
                tokens = f"{budget / UNITS:g} tokens"
                raise WrongCampaignError(f"{path}: the escrow holds less than the budget of {tokens}")
            return addresses, False
        beside = journal_beside(path)
        with closing(Journal(beside)) as journal:
            addresses = _deploy(journal, campaign, options, keys, chain)
        try:
            write_atomically(path, addresses.to_json())
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
    for leftover in path.parent.glob(beside.name + "*"):
        leftover.unlink()
    return addresses, True


def journal_beside(path: Path) -> Path:
    """Return the path of a deployment's journal, kept until its addresses file is written."""
    return path.with_name(path.name + ".journal")


def _deploy(
    journal: Journal, campaign: Campaign, options: ChainOptions, keys: Keys, chain: Chain
) -> Addresses:
    found = journal.campaign
    if found is None:
        journal.found(campaign)
    elif campaign != Campaign(found.campaign, found.run, found.round_cap, found.budget):
        raise WrongCampaignError(
            f"{journal.path} is an unfinished deployment with other settings: "
            "finish it with those, or remove the file"
        )
    try:
        deployed = Recording(chain, journal, options, keys).deployed
    except PoorAccountError as error:
        raise UsageError(str(error)) from None
    return Addresses(
        chain_id=chain.chain_id,
        genesis=f"0x{chain.genesis.hex()}",
        run_id=f"0x{campaign.run.hex()}",
        campaign=f"0x{campaign.campaign.hex()}",
        token=deployed.token.address,
        ledger=deployed.ledger.address,
        registry=deployed.registry.address if deployed.registry else None,
        block=journal.founded.block,
        code={c.artifact.name: f"0x{c.artifact.code_hash.hex()}" for c in deployed.contracts},
    )
