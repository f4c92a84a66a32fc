"""A run's campaign: its id, the one chain that it is on, and how it starts over."""

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
    """Return the id of a run's campaign; `counter` counts how often it was started over."""
    return keccak(run + counter.to_bytes(32, "big"))


def identify(journal: Journal, options: ChainOptions, run: bytes, budget: int) -> None:
    """Make a new journal this run's, and refuse another run's.

    Raises:
        UsageError: If it is another's, or its campaign's budget is too small now.
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
    """Tie a journal to the chain that it is used with first, and to no other ever after.

    Raises:
        WrongCampaignError: If it is tied to another chain.
        UsageError: If nothing is deployed yet, and the contracts cannot run there.
    """
    campaign = journal.campaign
    if campaign is None or campaign.ledger is None:
        require_rules(chain)
    if campaign is None or campaign.genesis is None:
        journal.note("bind", chain_id=chain.chain_id, genesis=chain.genesis)
    else:
        check_chain(journal.path, campaign, chain)


def check_chain(path: Path, campaign: Campaign, chain: Chain) -> None:
    """Refuse a chain that is not the one of a campaign.

    Raises:
        WrongCampaignError: Naming both.
    """
    if campaign.chain_id != chain.chain_id:
        raise WrongCampaignError(
            f"{path} is about chain {campaign.chain_id}, and the node has chain {chain.chain_id}: "
            "point at the right one, or start over with --new-campaign"
        )
    genesis = campaign.genesis or b""
    if genesis != chain.genesis:
        raise WrongCampaignError(
            f"the chain was reset (its genesis is 0x{chain.genesis.hex()[:8]}, in {path} "
            f"0x{genesis.hex()[:8]}): nothing is paid again; start over with --new-campaign"
        )


def new_campaign(folder: Path, options: ChainOptions, run: bytes, budget: int) -> Path:
    """Put a run's campaign aside and begin another with the same frozen rounds.

    The old folder becomes ``chain-1`` (``-2``, and so on). A crash leaves either the old campaign or the
    new one. A damaged journal gives no rounds: they have to be frozen again from the run's logs.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain; terms of the new campaign.
        run: The run's id.
        budget: Token units in escrow.

    Returns:
        Where the old campaign is now.

    Raises:
        UsageError: If there is none, or another process has it open.
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
        # What was copied is good; the rest comes from the run's logs.
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
    """Finish what a crash left of `new_campaign`, one way or the other."""
    new = _unfinished(folder)
    if not new.exists():
        return
    if folder.exists():
        shutil.rmtree(new)
    else:
        new.rename(folder)


def counter_of(folder: Path) -> int:
    """Return how often the campaign in `folder` was started over."""
    pattern = re.compile(re.escape(folder.name) + r"-(\d+)")
    beside = folder.parent.iterdir() if folder.parent.exists() else ()
    numbers = (pattern.fullmatch(path.name) for path in beside)
    return max((int(match[1]) for match in numbers if match), default=0)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.new")
