"""Who an update is from: the seam to keys and accounts, of which this room knows nothing more."""

from typing import Protocol

SIGNATURE = "signature"
"""Key of the signature in the config record of a training reply."""


class Signatures(Protocol):
    """Signs for clients and checks what they signed; a simulation has both ends in one process."""

    def account(self, client: int) -> str:
        """Return the address that is paid for what `client` contributes."""
        ...

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        """Return the signature of `client` under an update, given by its digest (32 bytes)."""
        ...

    def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
        """Tell whether `client` has signed just these values; False for whatever is no signature."""
        ...
