"""EIP-712 digests of what committee and clients sign."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """What the committee signs for a range of rounds; hashes are 32 bytes, `total` in token units."""

    campaign: bytes
    epoch: int
    first_round: int
    last_round: int
    rewards_root: bytes
    contributions_root: bytes
    model_hash: bytes
    evidence_hash: bytes
    total: int


@dataclass(frozen=True, slots=True)
class Veto:
    """What the committee signs to drop a queued record and all after it."""

    campaign: bytes
    epoch: int
    first_round: int
    evidence_hash: bytes


@dataclass(frozen=True, slots=True)
class Slash:
    """What the committee signs to take a part of a stake (fields follow the registry contract)."""

    account: str
    amount: int
    evidence_hash: bytes
    nonce: int


def ledger_domain(chain_id: int, ledger: str) -> bytes:
    """Return the EIP-712 domain separator of a deployed `RewardLedger`."""
    raise NotImplementedError


def registry_domain(chain_id: int, registry: str) -> bytes:
    """Return the EIP-712 domain separator of a deployed `ParticipantRegistry`."""
    raise NotImplementedError


def record_digest(domain: bytes, record: Record) -> bytes:
    """Return the 32 bytes that committee members sign for a record."""
    raise NotImplementedError


def veto_digest(domain: bytes, veto: Veto) -> bytes:
    """Return the 32 bytes that committee members sign for a veto."""
    raise NotImplementedError


def slash_digest(domain: bytes, slash: Slash) -> bytes:
    """Return the 32 bytes that committee members sign for a slashing."""
    raise NotImplementedError


def update_digest(run: bytes, round_: int, tasks: int, update: bytes) -> bytes:
    """Return the 32 bytes that a client signs for its update; needs no contract and no chain."""
    raise NotImplementedError
