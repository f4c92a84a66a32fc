"""EIP-712 digests of what committee, clients and nodes sign.

Written out for the flat types that there are, because the general encoders take a millisecond each.
The types are those of `contracts/src`; those of clients and nodes are checked nowhere on the chain.
"""

from dataclasses import dataclass

from fedmeta.chain.hashing import from_address, keccak

RECORD_TYPE = (
    "Record(bytes32 campaign,uint64 epoch,uint64 firstRound,uint64 lastRound,bytes32 rewardsRoot,"
    "bytes32 contributionsRoot,bytes32 modelHash,bytes32 evidenceHash,uint256 total)"
)
VETO_TYPE = "Veto(bytes32 campaign,uint64 epoch,uint64 firstRound,bytes32 evidenceHash)"
SLASH_TYPE = "Slash(address account,uint256 amount,bytes32 evidenceHash,uint64 nonce)"
UPDATE_TYPE = "Update(bytes32 run,uint64 round,uint64 tasks,bytes32 update)"
REGISTRATION_TYPE = "Registration(string federation,uint64 partition,bytes32 key)"
PRESENCE_TYPE = "Presence(bytes32 run,uint64 node,uint64 partition,bytes32 nonce)"
LEDGER_NAME = "fedmeta RewardLedger"
REGISTRY_NAME = "fedmeta ParticipantRegistry"
UPDATE_NAME = "fedmeta update"
NODE_NAME = "fedmeta node"
VERSION = "1"

_PADDING = bytes(12)


@dataclass(frozen=True, slots=True)
class Record:
    """What the committee signs for a range of rounds.

    Attributes:
        campaign: The campaign's id, 32 bytes, as are all hashes and roots.
        epoch: Vetoes so far.
        first_round: First round covered.
        last_round: Last round covered.
        rewards_root: Of the tree of cumulative rewards.
        contributions_root: Of the tree of these rounds' contributions.
        model_hash: Of the model after the last round.
        evidence_hash: Of the log of these rounds.
        total: Token units awarded since the campaign's start.
    """

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
    """What the committee signs to drop a queued record and all after it; see `Record`."""

    campaign: bytes
    epoch: int
    first_round: int
    evidence_hash: bytes


@dataclass(frozen=True, slots=True)
class Slash:
    """What the committee signs to take a part of a stake.

    Attributes:
        account: Whose stake.
        amount: Token units.
        evidence_hash: Of what shows the fault, 32 bytes.
        nonce: The account's slashings so far.
    """

    account: str
    amount: int
    evidence_hash: bytes
    nonce: int


def ledger_domain(chain_id: int, ledger: str) -> bytes:
    """Return the EIP-712 domain separator of a deployed `RewardLedger`."""
    return _contract_domain(LEDGER_NAME, chain_id, ledger)


def registry_domain(chain_id: int, registry: str) -> bytes:
    """Return the EIP-712 domain separator of a deployed `ParticipantRegistry`."""
    return _contract_domain(REGISTRY_NAME, chain_id, registry)


def record_digest(domain: bytes, record: Record) -> bytes:
    """Return the 32 bytes that committee members sign for a record.

    Raises:
        ValueError: If a hash has not 32 bytes.
        OverflowError: If a number does not fit its type.
    """
    values = (
        _word(record.campaign)
        + _uint64(record.epoch)
        + _uint64(record.first_round)
        + _uint64(record.last_round)
        + _word(record.rewards_root)
        + _word(record.contributions_root)
        + _word(record.model_hash)
        + _word(record.evidence_hash)
        + record.total.to_bytes(32)
    )
    return _digest(domain, _RECORD + values)


def veto_digest(domain: bytes, veto: Veto) -> bytes:
    """Return the 32 bytes that committee members sign for a veto; errors as of `record_digest`."""
    values = _word(veto.campaign) + _uint64(veto.epoch) + _uint64(veto.first_round)
    return _digest(domain, _VETO + values + _word(veto.evidence_hash))


def slash_digest(domain: bytes, slash: Slash) -> bytes:
    """Return the 32 bytes that committee members sign for a slashing; errors as of `record_digest`."""
    values = _PADDING + from_address(slash.account) + slash.amount.to_bytes(32)
    return _digest(domain, _SLASH + values + _word(slash.evidence_hash) + _uint64(slash.nonce))


def update_digest(run: bytes, round_: int, tasks: int, update: bytes) -> bytes:
    """Return the 32 bytes that a client signs for its update; errors as of `record_digest`.

    The domain names no contract and no chain: clients sign while there may be neither.
    """
    values = _word(run) + _uint64(round_) + _uint64(tasks) + _word(update)
    return _digest(_UPDATE_DOMAIN, _UPDATE + values)


def registration_digest(federation: str, partition: int, key: bytes) -> bytes:
    """Return the 32 bytes by which a node's account and key ask for a partition of a federation.

    Args:
        federation: Its name.
        partition: The partition.
        key: SHA-256 of the node's public key.
    """
    values = keccak(federation.encode()) + _uint64(partition) + _word(key)
    return _digest(_NODE_DOMAIN, _REGISTRATION + values)


def presence_digest(run: bytes, node: int, partition: int, nonce: bytes) -> bytes:
    """Return the 32 bytes by which an account says that a node holds its partition in a run.

    Args:
        run: The run's id, 32 bytes.
        node: The node's id on the SuperLink.
        partition: The partition.
        nonce: 32 bytes that the server drew for this question.
    """
    values = _word(run) + _uint64(node) + _uint64(partition) + _word(nonce)
    return _digest(_NODE_DOMAIN, _PRESENCE + values)


def _digest(domain: bytes, encoded: bytes) -> bytes:
    return keccak(b"\x19\x01" + domain + keccak(encoded))


def _contract_domain(name: str, chain_id: int, contract: str) -> bytes:
    fields = b"string name,string version,uint256 chainId,address verifyingContract"
    typehash = keccak(b"EIP712Domain(" + fields + b")")
    where = chain_id.to_bytes(32) + _PADDING + from_address(contract)
    return keccak(typehash + keccak(name.encode()) + keccak(VERSION.encode()) + where)


def _word(value: bytes) -> bytes:
    if len(value) != 32:
        raise ValueError(f"a hash or id has 32 bytes, not {len(value)}")
    return value


def _uint64(value: int) -> bytes:
    return value.to_bytes(8).rjust(32, b"\0")


def _plain_domain(name: str) -> bytes:
    typehash = keccak(b"EIP712Domain(string name,string version)")
    return keccak(typehash + keccak(name.encode()) + keccak(VERSION.encode()))


_RECORD, _VETO, _SLASH, _UPDATE, _REGISTRATION, _PRESENCE = (
    keccak(type_.encode())
    for type_ in (RECORD_TYPE, VETO_TYPE, SLASH_TYPE, UPDATE_TYPE, REGISTRATION_TYPE, PRESENCE_TYPE)
)
_UPDATE_DOMAIN, _NODE_DOMAIN = _plain_domain(UPDATE_NAME), _plain_domain(NODE_NAME)
