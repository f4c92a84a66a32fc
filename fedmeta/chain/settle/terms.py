"""What a campaign's contracts are made with, and how a campaign starts over."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmeta.chain.contracts import Contract
from fedmeta.chain.hashing import from_address, keccak
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.store import DamagedJournalError
from fedmeta.errors import UsageError

UNITS = 10**6
"""Token units in a whole token."""

_VIEWS = {
    "token": "token",
    "sponsor": "sponsor",
    "campaign": "campaign",
    "committee": "committee",
    "threshold": "threshold",
    "round_cap": "roundCap",
    "lifetime_cap": "lifetimeCap",
    "deadline": "deadline",
    "challenge_delay": "challengeDelay",
}


def campaign_id(run: bytes, counter: int = 0) -> bytes:
    """Return the id of a run's campaign; `counter` counts how often it was started over."""
    return keccak(run + counter.to_bytes(32, "big"))


@dataclass(frozen=True)
class Terms:
    """Terms of a ledger; amounts in token units, times in seconds.

    Attributes:
        campaign: Id of the campaign, hexadecimal.
        sponsor: Address that funds it.
        committee: Addresses in rising order.
        threshold: Signatures that a record needs.
        round_cap: Most that a round may pay.
        lifetime_cap: Most that all rounds may pay.
        deadline: Chain time until which the sponsor cannot take anything back.
        challenge_delay: Before a record becomes claimable.
    """

    campaign: str
    sponsor: str
    committee: tuple[str, ...]
    threshold: int
    round_cap: int
    lifetime_cap: int
    deadline: int
    challenge_delay: int

    def to_json(self) -> str:
        """Return them as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Terms":
        """Return the terms that `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"committee": tuple(values["committee"])})

    def struct(self, token: str) -> tuple[object, ...]:
        """Return the constructor's argument for a ledger that pays in `token`."""
        return (
            token,
            self.sponsor,
            bytes.fromhex(self.campaign),
            self.committee,
            self.threshold,
            self.round_cap,
            self.lifetime_cap,
            self.deadline,
            self.challenge_delay,
        )


def ascending(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return addresses in the order in which the contracts want members and signatures."""
    return tuple(sorted(addresses, key=from_address))


def read_terms(ledger: Contract) -> tuple[str, Terms]:
    """Return the token and the terms of a deployed ledger."""
    values = dict(zip(_VIEWS, ledger.many(*_VIEWS.values()), strict=True))
    token = str(values.pop("token"))
    fields = values | {"campaign": values["campaign"].hex(), "committee": tuple(values["committee"])}
    return token, Terms(**fields)


def difference(found: Terms, expected: Terms) -> str | None:
    """Return the first term in which a ledger is not what is expected, as ``name: value, not value``.

    The deadline depends on when the ledger was deployed, and is not compared.
    """
    for name, value in asdict(expected).items():
        other = asdict(found)[name]
        if name != "deadline" and _plain(value) != _plain(other):
            return f"{name.replace('_', ' ')} is {_text(name, other)}, not {_text(name, value)}"
    return None


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value.lower()
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _text(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_cap"):
        return f"{value / UNITS:g} tokens"
    return ", ".join(value) if isinstance(value, (tuple, list)) else str(value)


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
