"""Starting a campaign over: what was frozen stays, and is recorded and paid anew on a new ledger."""

import re
import shutil
from pathlib import Path

from fedmeta.chain.ledger.entries import Campaign
from fedmeta.chain.ledger.journal import Journal
from fedmeta.chain.ledger.store import DamagedJournalError
from fedmeta.chain.ledger.terms import UNITS, campaign_id
from fedmeta.chain.options import ChainOptions
from fedmeta.errors import UsageError

JOURNAL = "journal.sqlite"
_AT_ONCE = 200


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
        for first in range(1, old.frozen + 1, _AT_ONCE):
            copied.freeze(old.rounds(first, min(first + _AT_ONCE - 1, old.frozen)))
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
