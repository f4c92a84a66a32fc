"""A run's campaign: its id, its chain, and starting over."""

import re
import shutil
from contextlib import closing
from pathlib import Path

from fedmeta.chain.chain import Chain, require_rules
from fedmeta.chain.errors import WrongCampaignError
from fedmeta.chain.hashing import keccak
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.store import DamagedJournalError
from fedmeta.errors import UsageError

JOURNAL = "journal.sqlite"


def campaign_id(run: bytes, counter: int = 0) -> bytes:
    """Return the id of a run's campaign after `counter` restarts."""
    return keccak(run + counter.to_bytes(32, "big"))


def identify(journal: Journal, options: ChainOptions, run: bytes, budget: int) -> None:
    """Assign a new journal to this run; refuse another run's, and a budget that is too small now."""
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
    """Bind a journal to the first chain it is used with; refuse others, and one with old rules."""
    campaign = journal.founded
    if campaign.ledger is None:
        require_rules(chain)
    if campaign.genesis is None:
        journal.note("bind", chain_id=chain.chain_id, genesis=chain.genesis)
    else:
        check_chain(journal.path, campaign, chain)


def check_chain(path: Path, campaign: Campaign, chain: Chain) -> None:
    """Refuse a chain other than the campaign's; see `require_chain`."""
    genesis = f"0x{(campaign.genesis or b'').hex()}"
    require_chain(path, campaign.chain_id, genesis, chain, "start over with --new-campaign")


def require_chain(path: Path, chain_id: int | None, genesis: str, chain: Chain, remedy: str) -> None:
    """Refuse a chain other than the one that a file belongs to; the message has both and the remedy."""
    if chain.chain_id != chain_id:
        raise WrongCampaignError(
            f"{path} belongs to chain {chain_id}, and the node has chain {chain.chain_id}: "
            f"use the right node, or {remedy}"
        )
    here = f"0x{chain.genesis.hex()}"
    if here != genesis:
        raise WrongCampaignError(
            f"{path} belongs to another chain with id {chain_id} (genesis {genesis[:10]}, here "
            f"{here[:10]}): the chain was reset; {remedy} (nothing is paid until then)"
        )


def new_campaign(folder: Path, options: ChainOptions, run: bytes, budget: int) -> Path:
    """Set a run's campaign aside and begin a new one with the same frozen rounds.

    The old folder becomes ``chain-1`` (``-2``, and so on). A crash leaves either the old campaign or the
    new one. Rounds of a damaged journal are not copied: they must be frozen again from the run's logs.

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
    with closing(Journal(new / JOURNAL)) as copied:
        copied.found(Campaign(campaign_id(run, counter), run, options.pot * UNITS, budget))
        try:
            with closing(Journal(folder / JOURNAL)) as old:
                _copy(old, copied)
        except DamagedJournalError:
            # The rounds copied so far are valid; the rest comes from the run's logs.
            pass
    folder.rename(aside)
    new.rename(folder)
    return aside


def _copy(old: Journal, copied: Journal) -> None:
    for frozen in old.rounds():
        copied.freeze([frozen])
    stakes = old.stakes()
    copied.stake(list(stakes))
    for account, evidence in stakes.items():
        if evidence is not None:
            copied.accuse(account, evidence)


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
