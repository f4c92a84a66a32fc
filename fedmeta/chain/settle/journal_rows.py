"""Journal row types."""

from dataclasses import dataclass
from typing import Literal

from fedmeta.chain.errors import ChainError

State = Literal["journaled", "sent", "mined", "final", "reverted", "dropped"]


class NotMinedError(ChainError):
    """A transaction waits for a block; there is nothing to do but to wait as well."""


class PoorAccountError(ChainError):
    """An account has too little of what it is to spend; somebody has to send it some."""


@dataclass(frozen=True)
class Campaign:
    """Whose journal it is; what is None is not known yet.

    Attributes:
        campaign: Id, 32 bytes.
        run: The run's id, 32 bytes.
        round_cap: Units that a round may pay.
        budget: Units in escrow.
        chain_id: Of the chain it was bound to.
        genesis: Hash of that chain's block 0.
        terms: The ledger's terms as JSON, fixed before it is deployed.
        token: Address of the token; likewise `ledger` and `registry`.
        code: Hash of the ledger's code.
        block: Block before which nothing of the campaign was mined.
        epoch: Vetoes that were seen.
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


@dataclass(frozen=True)
class SignedRecord:
    """A record over a range of rounds, as the committee signed it for one ledger.

    Attributes:
        first: First round; `last` is the last one, inclusive.
        rewards_root: Root over what each account was awarded up to `last`.
        contributions_root: Root over the contributions of the range.
        model: Hash of the state after `last`.
        evidence: Over the evidence of the range's rounds.
        total: Units awarded up to `last`.
        ledger: Address that the signatures are for; empty, with no signatures, if others recorded it.
        epoch: Number of vetoes that the signatures are for.
        signatures: 65 bytes each, by rising address of the signer.
        mined: Whether the chain was seen to hold it.
    """

    first: int
    last: int
    rewards_root: bytes
    contributions_root: bytes
    model: bytes
    evidence: bytes
    total: int
    ledger: str
    epoch: int
    signatures: bytes
    mined: bool = False


@dataclass(frozen=True)
class Transaction:
    """A transaction that was signed, whether or not the chain has seen it.

    Attributes:
        hash: 32 bytes.
        action: What it is for; several transactions may have been signed for one action.
        sender: Address that signed it.
        nonce: Its account nonce.
        raw: The signed bytes.
        state: How far it came; ``dropped``: its nonce was used by another.
        block_hash: Where it was mined.
        block_number: Where it was mined.
    """

    hash: bytes
    action: str
    sender: str
    nonce: int
    raw: bytes
    state: State = "journaled"
    block_hash: bytes | None = None
    block_number: int | None = None


@dataclass(frozen=True)
class Stake:
    """A stake that is to be put down.

    Attributes:
        account: For whom.
        evidence: Hash of what shows that a part of it is to be taken, 32 bytes; None: nothing does.
    """

    account: str
    evidence: bytes | None = None
