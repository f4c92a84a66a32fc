"""Journal row types: campaign, frozen rounds, records of rounds, transactions."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

from fedmeta.chain.typed_data import Domain, typed_digest

_MOST = 2**63
"""SQLite's integers end here; rewards end at 2^128."""


@dataclass(frozen=True)
class Campaign:
    """The journal's campaign; None means not known yet.

    Attributes:
        campaign: Id, 32 bytes.
        run: The run's id, 32 bytes.
        round_cap: Units that a round may pay.
        budget: Units in escrow.
        chain_id: Id of the chain it was bound to.
        genesis: Hash of that chain's block 0.
        terms: The ledger's terms as JSON, fixed before it is deployed.
        token: Address of the token; likewise `ledger` and `registry`.
        code: Hash of the ledger's code.
        block: A block before which no transaction of the campaign was mined.
        epoch: Number of vetoes seen.
    """

    campaign: bytes
    run: bytes
    round_cap: int
    budget: int
    chain_id: int | None = None
    genesis: bytes | None = None
    terms: str | None = None
    token: str | None = None
    ledger: str | None = None
    registry: str | None = None
    code: bytes | None = None
    block: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Contribution:
    """One client's contribution to a round, and its award.

    Attributes:
        client: Partition id.
        account: Its address, 0x text.
        tasks: Training tasks behind the update.
        update: SHA-256 of the update's arrays.
        signature: The client's signature of the update, 65 bytes.
        score: Score of the update; None if it was not scored.
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
        contributions: Those of the admitted clients, by client id.
    """

    round: int
    model: bytes
    evidence: bytes
    contributions: tuple[Contribution, ...]

    @property
    def reward(self) -> int:
        """Token units that the round pays."""
        return sum(c.reward for c in self.contributions)

    def check(self) -> None:
        """Refuse a round that cannot be frozen.

        Raises:
            ValueError: Names the round, the client and the field.
        """
        where = f"round {self.round}"
        if not 1 <= self.round < _MOST:
            raise ValueError(f"{where}: rounds count from 1")
        if len(self.model) != 32 or len(self.evidence) != 32:
            raise ValueError(f"{where}: model and evidence hashes have 32 bytes")
        clients = [c.client for c in self.contributions]
        if any(a >= b for a, b in pairwise(clients)):
            raise ValueError(f"{where}: contributions go by rising client id, one each")
        if len({c.account.lower() for c in self.contributions}) != len(clients):
            raise ValueError(f"{where}: two contributions of one account")
        for c in self.contributions:
            if len(c.update) != 32 or len(c.signature) != 65:
                raise ValueError(f"{where}, client {c.client}: an update has 32 bytes, its signature 65")
            if not (0 <= c.client < _MOST and 0 <= c.tasks < _MOST and 0 <= c.reward < 2**128):
                raise ValueError(f"{where}, client {c.client}: tasks or reward are out of range")
            if c.score is not None and not math.isfinite(c.score):
                raise ValueError(f"{where}, client {c.client}: the score is not finite")


@dataclass(frozen=True)
class Content:
    """Content of a record of rounds `first` to `last`, without signatures.

    Attributes:
        first: First round; `last` is the last one, inclusive.
        rewards_root: Root over (account, units awarded up to `last`), without accounts at zero.
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

    @property
    def rounds(self) -> str:
        """The rounds, for messages."""
        return f"rounds {self.first} to {self.last}"

    def stated(self) -> tuple[object, ...]:
        """Return the fields in order of the contract's struct."""
        return tuple(getattr(self, field.name) for field in fields(Content))

    def digest(self, domain: Domain, campaign: bytes, epoch: int) -> bytes:
        """Return what the committee of `campaign` signs after `epoch` vetoes."""
        return typed_digest(domain, "Record", campaign, epoch, *self.stated())

    def differs(self, other: "Content") -> str | None:
        """Return the first field in which two records differ, with both values; None if equal."""
        for field, mine, theirs in zip(fields(Content), self.stated(), other.stated(), strict=True):
            if mine != theirs:
                return f"{field.name.replace('_', ' ')} {_shown(mine)} and {_shown(theirs)}"
        return None


@dataclass(frozen=True)
class SignedRecord(Content):
    """A record signed by the committee for one ledger.

    Attributes:
        ledger: Ledger address in the signatures; empty, without signatures, if others recorded it.
        epoch: Number of vetoes in the signatures.
        signatures: 65 bytes each, by ascending address of the signer.
        mined: Whether it was seen on the chain.
    """

    ledger: str
    epoch: int
    signatures: bytes
    mined: bool = False


State = Literal["journaled", "sent", "mined", "final", "reverted", "dropped"]
"""Earlier versions marked old transactions as ``final``."""


@dataclass(frozen=True)
class Transaction:
    """A signed transaction, sent or not.

    Attributes:
        hash: 32 bytes.
        action: Its purpose; an action may have several transactions.
        sender: Address that signed it.
        nonce: Its account nonce.
        raw: The signed bytes.
        state: Its progress; ``dropped``: another transaction used its nonce.
        block_hash: Hash of its block.
        block_number: Number of its block.
    """

    hash: bytes
    action: str
    sender: str
    nonce: int
    raw: bytes
    state: State = "journaled"
    block_hash: bytes | None = None
    block_number: int | None = None


def range_evidence(evidence: Iterable[bytes]) -> bytes:
    """Return the evidence hash of a record: SHA-256 of its rounds' concatenated evidence hashes.

    The rule also holds for a record of one round, so it does not depend on batching.
    """
    return hashlib.sha256(b"".join(evidence)).digest()


def _shown(value: object) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
