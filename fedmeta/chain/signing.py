"""Private keys, and the EIP-712 digests that the committee, clients and nodes sign.

The types match `contracts/src`; those of clients and nodes are not checked on the chain.
"""

from collections.abc import Mapping
from typing import Any

import rlp  # type: ignore[import-untyped]
from coincurve import PrivateKey, PublicKey
from eth_typing import ChecksumAddress, HexAddress, HexStr

from fedmeta.chain.hashing import from_address, keccak, to_address

SIGNATURE_LENGTH = 65

# Order of secp256k1 (SEC 2, section 2.4.1). Every signature has a twin with s in the upper half.
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class Signer:
    """A private key that signs digests and transactions; its `repr` hides the key.

    Signing uses libsecp256k1 directly, as every client signs in every round: eth-account takes 7 times
    as long (0.38 ms instead of 0.05 ms), and eth-keys with the same library 4 times.

    Raises:
        ValueError: If `secret`, of 32 bytes, is not a private key.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError("a private key has 32 bytes")
        self._key = PrivateKey(secret)
        self.address: ChecksumAddress = _address(self._key.public_key)

    def __repr__(self) -> str:
        return f"Signer({self.address})"

    def sign(self, digest: bytes) -> bytes:
        """Return the 65-byte signature r, s, v (v is 27 or 28) of a 32-byte digest."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def sign_transaction(self, transaction: Mapping[str, object]) -> tuple[bytes, bytes]:
        """Sign a transaction of web3's fields, and return it and its hash."""
        from eth_account import Account

        fields: dict[str, Any] = {"value": 0, "data": b"", "to": "", **transaction}
        if fields["to"]:
            fields["to"] = to_address(from_address(fields["to"]))
        signed = Account.sign_transaction(fields, self._key.secret)
        return bytes(signed.raw_transaction), bytes(signed.hash)


def offered_fees(transaction: bytes) -> dict[str, int]:
    """Return the fees per gas that a signed transaction offers, by field name."""
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    if transaction[0] > 0x7F:
        # Legacy: an RLP list with the gas price second.
        return {"gasPrice": int.from_bytes(rlp.decode(transaction)[1])}
    fields = TypedTransaction.from_bytes(HexBytes(transaction)).as_dict()
    return {name: int(fields[name]) for name in ("maxFeePerGas", "maxPriorityFeePerGas")}


def recover(digest: bytes, signature: bytes) -> str:
    """Return the address that signed a 32-byte digest.

    Raises:
        ValueError: If it is not a signature, or one that the contracts reject (s in the upper half).
    """
    if len(signature) != SIGNATURE_LENGTH or len(digest) != 32 or signature[64] not in (27, 28):
        raise ValueError("not a signature")
    if int.from_bytes(signature[32:64]) > _ORDER // 2:
        raise ValueError("not a signature: s is in the upper half")
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
        )
    except Exception:
        # coincurve raises plain Exception for values off the curve.
        raise ValueError("not a signature") from None
    return _address(key)


def _address(key: PublicKey) -> ChecksumAddress:
    return ChecksumAddress(HexAddress(HexStr(to_address(keccak(key.format(compressed=False)[1:])[12:]))))


TYPES = {
    "Record": "bytes32 campaign,uint64 epoch,uint64 firstRound,uint64 lastRound,bytes32 rewardsRoot,"
    "bytes32 contributionsRoot,bytes32 modelHash,bytes32 evidenceHash,uint256 total",
    "Veto": "bytes32 campaign,uint64 epoch,uint64 firstRound,bytes32 evidenceHash",
    "Slash": "address account,uint256 amount,bytes32 evidenceHash,uint64 nonce",
    "Update": "bytes32 run,uint64 round,uint64 tasks,bytes32 update",
    "Registration": "string federation,uint64 partition,bytes32 key",
    "Presence": "bytes32 run,uint64 node,uint64 partition,bytes32 nonce",
}
"""The fields of each signed struct."""
VERSION = "1"

Domain = dict[str, object]


def ledger_domain(chain_id: int, ledger: str) -> Domain:
    """Return the EIP-712 domain of a deployed `RewardLedger`."""
    return _domain("fedmeta RewardLedger", chainId=chain_id, verifyingContract=ledger)


def registry_domain(chain_id: int, registry: str) -> Domain:
    """Return the EIP-712 domain of a deployed `ParticipantRegistry`."""
    return _domain("fedmeta ParticipantRegistry", chainId=chain_id, verifyingContract=registry)


def typed_digest(domain: Domain, name: str, *values: object) -> bytes:
    """Return the 32 bytes to sign for a struct of `TYPES`, such as ``Slash``.

    Raises:
        ValueError: If a value does not fit its type.
    """
    from eth_abi.exceptions import EncodingError
    from eth_account.messages import encode_typed_data

    fields = [
        dict(zip(("type", "name"), field.split(), strict=True)) for field in TYPES[name].split(",")
    ]
    for field, value in zip(fields, values, strict=True):
        # eth-account would pad shorter values.
        if field["type"] == "bytes32":
            _word(value)
    message: dict[str, Any] = {f["name"]: value for f, value in zip(fields, values, strict=True)}
    try:
        signable = encode_typed_data(domain, {name: fields}, message)
    except EncodingError as error:
        raise ValueError(f"{name}: {error}") from None
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def update_digest(run: bytes, round_: int, tasks: int, update: bytes) -> bytes:
    """Return the 32 bytes that a client signs for its update.

    The domain names no contract and no chain, as there may be neither yet. Encoded here, as every client
    signs in every round: eth-account takes 40 times as long (0.36 ms instead of 0.009 ms).

    Raises:
        ValueError: If a hash does not have 32 bytes.
        OverflowError: If a number does not fit its type.
    """
    values = _word(run) + _uint64(round_) + _uint64(tasks) + _word(update)
    return keccak(b"\x19\x01" + _UPDATE_DOMAIN + keccak(_UPDATE + values))


def registration_digest(federation: str, partition: int, key: bytes) -> bytes:
    """Return the 32 bytes that register a node's account for a partition; `key`: SHA-256 of its key."""
    return typed_digest(_domain("fedmeta node"), "Registration", federation, partition, key)


def presence_digest(run: bytes, node: int, partition: int, nonce: bytes) -> bytes:
    """Return the 32 bytes with which an account confirms that a node holds its partition in a run.

    Args:
        run: The run's id, 32 bytes.
        node: The node's id on the SuperLink.
        partition: The partition.
        nonce: The server's 32 random bytes for this query.
    """
    return typed_digest(_domain("fedmeta node"), "Presence", run, node, partition, nonce)


def _domain(name: str, **where: object) -> Domain:
    return {"name": name, "version": VERSION, **where}


def _word(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError(
            f"a hash or id has 32 bytes, not {len(value) if isinstance(value, bytes) else value}"
        )
    return value


def _uint64(value: int) -> bytes:
    return value.to_bytes(8).rjust(32, b"\0")


_UPDATE = keccak(f"Update({TYPES['Update']})".encode())
_UPDATE_DOMAIN = keccak(
    keccak(b"EIP712Domain(string name,string version)")
    + keccak(b"fedmeta update")
    + keccak(VERSION.encode())
)
