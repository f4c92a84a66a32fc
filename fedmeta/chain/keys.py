"""Who signs: the sponsor, the committee and the clients; development keys on local chains only."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from fedmeta.chain.options import ChainOptions


class Signer:
    """A private key that signs digests and transactions; it never shows itself.

    Attributes:
        address: Its checksummed address.
    """

    address: str

    def __init__(self, secret: bytes) -> None:
        raise NotImplementedError

    def sign(self, digest: bytes) -> bytes:
        """Return the 65-byte signature r, s, v (v is 27 or 28) of a 32-byte digest."""
        raise NotImplementedError

    def sign_transaction(self, transaction: Mapping[str, object]) -> tuple[bytes, bytes]:
        """Return a transaction, signed and encoded, and its hash."""
        raise NotImplementedError


class ClientKeys:
    """One key for each client, derived from one secret and the run."""

    def __init__(self, secret: bytes, run: bytes) -> None:
        raise NotImplementedError

    def address(self, client: int) -> str:
        """Return the client's account."""
        raise NotImplementedError

    def sign(self, client: int, digest: bytes) -> bytes:
        """Return the client's 65-byte signature of a 32-byte digest."""
        raise NotImplementedError


@dataclass(frozen=True)
class Keys:
    """All keys of a run.

    Attributes:
        sponsor: Pays, deploys and sends all transactions.
        committee: The members, in order; each signs records.
        clients: The participants' keys.
        development: Whether they are the keys that everybody knows.
    """

    sponsor: Signer
    committee: tuple[Signer, ...]
    clients: ClientKeys
    development: bool

    def check(self, chain_id: int) -> None:
        """Refuse development keys on a chain that is not local.

        Raises:
            UsageError: Naming the variables to set.
        """
        raise NotImplementedError


def open_keys(
    options: ChainOptions, chain_id: int | None, run: bytes, environment: Mapping[str, str] = os.environ
) -> Keys:
    """Return the keys of a run.

    Args:
        options: Of the chain.
        chain_id: Of the node, or None if it has not answered yet; then `Keys.check` must follow.
        run: The run's id, 32 bytes.
        environment: Where FEDMETA_SPONSOR_KEY, FEDMETA_COMMITTEE_KEYS and FEDMETA_CLIENT_SECRET are.

    Raises:
        UsageError: If keys are missing, malformed or not fit for the chain.
    """
    raise NotImplementedError


def open_client_keys(
    options: ChainOptions, chain_id: int | None, run: bytes, environment: Mapping[str, str] = os.environ
) -> ClientKeys:
    """Return the clients' keys alone, as `open_keys` would."""
    raise NotImplementedError


def recover(digest: bytes, signature: bytes) -> str:
    """Return the address that signed a 32-byte digest.

    Raises:
        ValueError: If the signature is malformed or malleable.
    """
    raise NotImplementedError
