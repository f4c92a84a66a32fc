"""What a record over a range of rounds says; settlement writes it and audit works it out again."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedmeta.chain.ledger.rounds import account_text, awards, decode
from fedmeta.chain.merkle import MerkleTree, contributions_tree, rewards_tree
from fedmeta.chain.typed_data import Record


@dataclass(frozen=True)
class Content:
    """What a record says of rounds `first` to `last`, whoever signs it.

    Attributes:
        rewards_root: Root over (account, units awarded up to `last`), without accounts that have none.
        contributions_root: Root over (account, round, tasks, update, units) of the range.
        model: Hash of the state after `last`.
        evidence: See `range_evidence`.
        total: Units awarded to all accounts up to `last`.
    """

    first: int
    last: int
    rewards_root: bytes
    contributions_root: bytes
    model: bytes
    evidence: bytes
    total: int

    def to_sign(self, campaign: bytes, epoch: int) -> Record:
        """Return what the committee of `campaign` signs after `epoch` vetoes."""
        return Record(
            campaign=campaign,
            epoch=epoch,
            first_round=self.first,
            last_round=self.last,
            rewards_root=self.rewards_root,
            contributions_root=self.contributions_root,
            model_hash=self.model,
            evidence_hash=self.evidence,
            total=self.total,
        )

    def differs(self, other: "Content") -> str | None:
        """Return the first field in which two records differ, with both values; None if they agree."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                return f"{name.replace('_', ' ')} {_shown(mine)} and {_shown(theirs)}"
        return None


def _shown(value: object) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


def range_evidence(evidence: Iterable[bytes]) -> bytes:
    """Return the evidence hash of a record: SHA-256 over its rounds' evidence hashes, one after another.

    A record of one round follows the same rule, so that nobody has to know how rounds were batched.
    """
    return hashlib.sha256(b"".join(evidence)).digest()


class Totals:
    """What each account was awarded up to some round.

    Attributes:
        round: That round.
    """

    def __init__(self) -> None:
        self.round = 0
        self._units: Counter[bytes] = Counter()

    def add(self, contents: Sequence[bytes]) -> None:
        """Add the rounds that follow, in their byte form."""
        for content in contents:
            for account, reward in awards(content):
                if reward:
                    self._units[account] += reward
        self.round += len(contents)

    @property
    def total(self) -> int:
        """Units awarded to all."""
        return self._units.total()

    def by_account(self) -> dict[str, int]:
        """Return the units of each account that was awarded any, by checksummed address, sorted."""
        return {account_text(account): units for account, units in sorted(self._units.items())}

    def tree(self) -> MerkleTree:
        """Return the tree whose root a record carries."""
        return rewards_tree(self.by_account().items())


def content_of(contents: Sequence[bytes], totals: Totals) -> Content:
    """Return what a record over some rounds says.

    Args:
        contents: The rounds in their byte form, one at least.
        totals: Up to the last of them.
    """
    rounds = [decode(content) for content in contents]
    if not rounds or rounds[-1].round != totals.round:
        raise ValueError(f"totals up to round {totals.round} do not fit the rounds")
    leaves = ((c.account, r.round, c.tasks, c.update, c.reward) for r in rounds for c in r.contributions)
    return Content(
        first=rounds[0].round,
        last=rounds[-1].round,
        rewards_root=totals.tree().root,
        contributions_root=contributions_tree(leaves).root,
        model=rounds[-1].model,
        evidence=range_evidence(r.evidence for r in rounds),
        total=totals.total,
    )
