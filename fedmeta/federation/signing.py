"""Interfaces for signing updates, checking signatures and admitting nodes."""

from typing import Protocol, runtime_checkable

SIGNATURE = "signature"
"""Key of the signature in the config record of a training reply."""
NONCE, PROOF = "nonce", "proof"
"""Keys of the challenge to a node, and of its proof, in the config records of a query."""


class Signing(Protocol):
    """Signs updates as clients."""

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        """Return the signature by `client` of an update, given by its digest (32 bytes)."""
        ...


class Checking(Protocol):
    """Knows the clients' accounts, and checks their signatures."""

    def account(self, client: int) -> str:
        """Return the address that is paid for the contributions of `client`."""
        ...

    def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
        """Return whether `client` has signed exactly these values; False for an invalid signature."""
        ...


@runtime_checkable
class Signatures(Signing, Checking, Protocol):
    """Signs and checks, as in a simulation in one process."""


@runtime_checkable
class Proving(Protocol):
    """Proves that a node holds its client."""

    def prove(self, node: int, client: int, nonce: bytes) -> bytes:
        """Return the proof that `node` holds partition `client`, for this challenge only."""
        ...


class Seats(Protocol):
    """Decides which node may hold which partition."""

    def admitted(self, node: int) -> bool:
        """Return whether this node was admitted, so its errors are to be trusted."""
        ...

    def why_not(self, node: int, client: int, nonce: bytes, proof: object) -> str | None:
        """Return a one-line reason why `node` may not hold partition `client`; None if it may.

        Args:
            node: Its id on the SuperLink.
            client: The partition that it claims.
            nonce: The challenge that it was to sign.
            proof: Its answer, of any type.
        """
        ...

    def refused(self, node: int, why: str) -> None:
        """Record that a node was refused; called once for each reason."""
        ...
