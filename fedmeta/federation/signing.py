"""Who an update is from: the seam to keys and accounts, of which this room knows nothing more."""

from typing import Protocol, runtime_checkable

SIGNATURE = "signature"
"""Key of the signature in the config record of a training reply."""
NONCE, PROOF = "nonce", "proof"
"""Keys of the question who a node is, and of its answer, in the config records of a query."""


class Signing(Protocol):
    """Signs for clients."""

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        """Return the signature of `client` under an update, given by its digest (32 bytes)."""
        ...


class Checking(Protocol):
    """Knows the clients' accounts, and checks what they signed."""

    def account(self, client: int) -> str:
        """Return the address that is paid for what `client` contributes."""
        ...

    def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
        """Tell whether `client` has signed just these values; False for what is not a signature."""
        ...


@runtime_checkable
class Signatures(Signing, Checking, Protocol):
    """Both ends, as a simulation has them in one process."""


@runtime_checkable
class Proving(Protocol):
    """Signs for the one client that a node holds, and proves that the node does."""

    def prove(self, node: int, client: int, nonce: bytes) -> bytes:
        """Return the proof that `node` holds partition `client`, for this question alone."""
        ...


class Seats(Protocol):
    """Decides which node may hold which partition."""

    def admitted(self, node: int) -> bool:
        """Tell whether this very node was let in, so that what it says of itself is worth hearing."""
        ...

    def why_not(self, node: int, client: int, nonce: bytes, proof: object) -> str | None:
        """Return in one line why `node` may not hold partition `client`; None if it may.

        Args:
            node: Its id, as the SuperLink gives it.
            client: The partition that it claims.
            nonce: What it was asked to sign.
            proof: What it answered; anything.
        """
        ...

    def refused(self, node: int, why: str) -> None:
        """Take note of a node that was refused, each time for another reason."""
        ...
