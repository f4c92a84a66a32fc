"""A run's campaign: its id, its chain, and starting over."""

import re
import shutil
from pathlib import Path

from fedmeta.chain.chain import Chain, require_rules
from fedmeta.chain.errors import WrongCampaignError
from fedmeta.chain.hashing import keccak
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.store import DamagedJournalError
from fedmeta.chain.settle.terms import UNITS
from fedmeta.errors import UsageError

JOURNAL = "journal.sqlite"


def campaign_id(run: bytes, counter: int = 0) -> bytes:
    """Return the id of a run's campaign after `counter` restarts."""
    return keccak(run + counter.to_bytes(32, "big"))


def identify(journal: Journal, options: ChainOptions, run: bytes, budget: int) -> None:
    """Assign a new journal to this run, and refuse another run's.

    Raises:
        UsageError: If it is another run's, or its campaign's budget is now too small.
    """
    found, cap = journal.campaign, options.pot * UNITS
    if found is None:
        counter = counter_of(journal.path.parent)
        journal.found(Campaign(campaign_id(run, counter), run, cap, budget))
        return
    if found.run != run:
        raise UsageError(f"{journal.path} is the journal of another run")
    if found.round_cap != cap:
        raise UsageError(
            f"chain.pot: the campaign pays {found.round_cap / UNITS:g} tokens a round, not {options.pot}"
        )
    if budget > found.budget and found.terms is not None:
        raise UsageError(
            f"chain.budget: the campaign was deployed with {found.budget / UNITS:g} tokens and needs "
            f"{budget / UNITS:g} now: keep the rounds, or start over with --new-campaign"
        )
    if found.terms is None and budget != found.budget:
        journal.note("budget", budget=budget)


def bind(journal: Journal, chain: Chain) -> None:
    """Bind a journal to the first chain it is used with.

    Raises:
        WrongCampaignError: If it is bound to another chain.
        UsageError: If nothing is deployed yet, and the chain cannot run the contracts.
    """
    campaign = journal.campaign
    if campaign is None or campaign.ledger is None:
        require_rules(chain)
    if campaign is None or campaign.genesis is None:
        journal.note("bind", chain_id=chain.chain_id, genesis=chain.genesis)
    else:
        check_chain(journal.path, campaign, chain)


def check_chain(path: Path, campaign: Campaign, chain: Chain) -> None:
    """Refuse a chain other than the campaign's.

    Raises:
        WrongCampaignError: Names both.
    """
    if campaign.chain_id != chain.chain_id:
        raise WrongCampaignError(
            f"{path} belongs to chain {campaign.chain_id}, and the node has chain {chain.chain_id}: "
            "use the right node, or start over with --new-campaign"
        )
    genesis = campaign.genesis or b""
    if genesis != chain.genesis:
        raise WrongCampaignError(
            f"the chain was reset (its genesis is 0x{chain.genesis.hex()[:8]}, in {path} "
            f"0x{genesis.hex()[:8]}): nothing is paid again; start over with --new-campaign"
        )


def new_campaign(folder: Path, options: ChainOptions, run: bytes, budget: int) -> Path:
    """Set a run's campaign aside and begin a new one with the same frozen rounds.

    The old folder becomes ``chain-1`` (``-2``, and so on). A crash leaves either the old campaign or the
    new one. Rounds of a damaged journal are not copied: they must be frozen again from the run's logs.

    Args:
        folder: The run's ``chain`` folder.
        options: Options of the chain, including the terms of the new campaign.
        run: The run's id.
        budget: Token units in escrow.

    Returns:
        The old campaign's new path.

    Raises:
        UsageError: If there is no campaign, or another process has it open.
    """
    complete_restart(folder)
    if not (folder / JOURNAL).exists():
        raise UsageError(f"there is no campaign in '{folder}' to start over")
    counter = counter_of(folder) + 1
    new, aside = _unfinished(folder), folder.with_name(f"{folder.name}-{counter}")
    campaign = Campaign(campaign_id(run, counter), run, options.pot * UNITS, budget)
    copied = Journal(new / JOURNAL)
    try:
        copied.found(campaign)
        _copy_rounds(folder, copied)
    finally:
        copied.close()
    folder.rename(aside)
    new.rename(folder)
    return aside


def _copy_rounds(folder: Path, copied: Journal) -> None:
    try:
        old = Journal(folder / JOURNAL)
    except DamagedJournalError:
        return
    try:
        for frozen in old.rounds():
            copied.freeze([frozen])
        _copy_stakes(old, copied)
    except DamagedJournalError:
        # The rounds copied so far are valid; the rest comes from the run's logs.
        return
    finally:
        old.close()


def _copy_stakes(old: Journal, copied: Journal) -> None:
    stakes = old.stakes()
    copied.stake([stake.account for stake in stakes])
    for stake in stakes:
        if stake.evidence is not None:
            copied.accuse(stake.account, stake.evidence)


def complete_restart(folder: Path) -> None:
    """Complete or undo a `new_campaign` that a crash interrupted."""
    new = _unfinished(folder)
    if not new.exists():
        return
    if folder.exists():
        shutil.rmtree(new)
    else:
        new.rename(folder)


def counter_of(folder: Path) -> int:
    """Return how many times the campaign in `folder` was started over."""
    pattern = re.compile(re.escape(folder.name) + r"-(\d+)")
    beside = folder.parent.iterdir() if folder.parent.exists() else ()
    numbers = (pattern.fullmatch(path.name) for path in beside)
    return max((int(match[1]) for match in numbers if match), default=0)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.new")
