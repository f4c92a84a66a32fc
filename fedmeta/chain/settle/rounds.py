"""Frozen rounds, and the record that a range of them comes to.

The bytes of a round are fixed, so that "the same round again" is a comparison of bytes: a head (magic,
round, number of contributions, model hash, evidence hash), then a row of fixed width for each
contribution, by client id. All integers are big-endian. A reward has 8 bytes, or 16 in rounds that
award one client 2^63 units or more; the magic says which.
"""

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from fedmeta.chain.hashing import from_address, to_address
from fedmeta.chain.merkle import MerkleTree, contributions_tree, rewards_tree
from fedmeta.chain.typed_data import Record
from fedmeta.errors import RunError

_HEAD = struct.Struct(">16sQQ32s32s")
_ROW = struct.Struct(">Q20sQ32s65sdQ")
_WIDE_ROW = struct.Struct(">Q20sQ32s65sd16s")
_MAGIC = b"fedmeta round 1\n"
_WIDE_MAGIC = b"fedmeta round 2\n"
_ROWS = {_MAGIC: _ROW, _WIDE_MAGIC: _WIDE_ROW}
HEAD_BYTES = _HEAD.size
_NO_SCORE = math.nan
_WIDE = 2**63


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one client gave to a round, and what it is awarded for it.

    Attributes:
        client: Partition id.
        account: Its address, 0x text.
        tasks: Training tasks behind the update.
        update: SHA-256 of the update's arrays.
        signature: The client's over the update, 65 bytes.
        score: What the update was worth; None if it was not scored.
        reward: Token units (10^-6 of a token).
    """

    client: int
    account: str
    tasks: int
    update: bytes
    signature: bytes
    score: float | None
    reward: int


@dataclass(frozen=True, slots=True)
class FrozenRound:
    """A finished round.

    Attributes:
        round: Counted from 1.
        model: Hash of the state after the round, 32 bytes.
        evidence: SHA-256 of the round's lines of ``clients.jsonl``.
        contributions: Of the admitted clients alone, by client id.
    """

    round: int
    model: bytes
    evidence: bytes
    contributions: tuple[Contribution, ...]

    @property
    def reward(self) -> int:
        """Token units that the round pays."""
        return sum(c.reward for c in self.contributions)


def encode(frozen: FrozenRound) -> bytes:
    """Return the one byte form of a round.

    Raises:
        ValueError: If a field has the wrong length or range, or the clients are not in rising order.
    """
    check(frozen)
    wide = any(c.reward >= _WIDE for c in frozen.contributions)
    magic = _WIDE_MAGIC if wide else _MAGIC
    head = _HEAD.pack(magic, frozen.round, len(frozen.contributions), frozen.model, frozen.evidence)
    return head + b"".join(_row(c, wide) for c in frozen.contributions)


def _row(c: Contribution, wide: bool) -> bytes:
    score = _NO_SCORE if c.score is None else c.score
    fields = (c.client, from_address(c.account), c.tasks, c.update, c.signature, score)
    return _WIDE_ROW.pack(*fields, c.reward.to_bytes(16)) if wide else _ROW.pack(*fields, c.reward)


def check(frozen: FrozenRound) -> None:
    """Refuse a round that has no byte form.

    Raises:
        ValueError: Naming the round, the client and the field.
    """
    where = f"round {frozen.round}"
    if not 1 <= frozen.round < 2**63:
        raise ValueError(f"{where}: rounds count from 1")
    if len(frozen.model) != 32 or len(frozen.evidence) != 32:
        raise ValueError(f"{where}: model and evidence hashes have 32 bytes")
    clients = [c.client for c in frozen.contributions]
    if any(a >= b for a, b in pairwise(clients)):
        raise ValueError(f"{where}: contributions go by rising client id, one each")
    if len({c.account.lower() for c in frozen.contributions}) != len(clients):
        raise ValueError(f"{where}: two contributions of one account")
    for c in frozen.contributions:
        if len(c.update) != 32 or len(c.signature) != 65:
            raise ValueError(f"{where}, client {c.client}: an update has 32 bytes, its signature 65")
        if c.client < 0 or c.tasks < 0 or not 0 <= c.reward < 2**128:
            raise ValueError(f"{where}, client {c.client}: negative tasks or reward, or 2^128 units")
        if c.score is not None and not math.isfinite(c.score):
            raise ValueError(f"{where}, client {c.client}: the score is not finite")


def decode(data: bytes) -> FrozenRound:
    """Return the round of which `data` is the byte form.

    Raises:
        RunError: If it is none.
    """
    try:
        magic, round_, count, model, evidence = _HEAD.unpack_from(data)
        row = _layout(magic)
        if len(data) != _HEAD.size + count * row.size:
            raise RunError("not a frozen round")
        rows = row.iter_unpack(memoryview(data)[_HEAD.size :])
        return FrozenRound(round_, model, evidence, tuple(_contributions(rows)))
    except struct.error:
        raise RunError("not a frozen round") from None


_Row = tuple[int, bytes, int, bytes, bytes, float, int | bytes]


def _contributions(rows: Iterable[_Row]) -> Iterable[Contribution]:
    for client, account, tasks, update, signature, score, reward in rows:
        known = None if math.isnan(score) else score
        yield Contribution(
            client, account_text(account), tasks, update, signature, known, _units(reward)
        )


@lru_cache(maxsize=1 << 16)
def account_text(account: bytes) -> str:
    """Return 20 bytes as a checksummed address; remembered, for it costs two hashes."""
    return to_address(account)


def rewards(data: bytes) -> Iterable[tuple[bytes, int]]:
    """Yield (account, units) of an encoded round, ten times faster than `decode` does."""
    row = _layout(data[: len(_MAGIC)])
    for _, account, _, _, _, _, reward in row.iter_unpack(memoryview(data)[_HEAD.size :]):
        yield account, _units(reward)


def _layout(magic: bytes) -> struct.Struct:
    if magic not in _ROWS:
        raise RunError("not a frozen round")
    return _ROWS[magic]


def _units(reward: int | bytes) -> int:
    return reward if isinstance(reward, int) else int.from_bytes(reward)


def contributions_in(head: bytes) -> int:
    """Return how many contributions a round has, from the first `HEAD_BYTES` of its byte form."""
    count: int = _HEAD.unpack(head)[2]
    return count


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
            for account, reward in rewards(content):
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
