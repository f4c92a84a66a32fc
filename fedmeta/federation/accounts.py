"""Interfaces to clients' accounts: signing, admitting nodes, scoring and pay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedmeta.federation.records import Award
from fedmeta.learning import Tensors

if TYPE_CHECKING:
    from fedmeta.federation.gate import Update

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


Preview = Callable[[NDArray[np.float64]], Tensors]
"""Returns the state after the server's step along a flat pseudo-gradient ``[D]``."""


class Scorer(Protocol):
    """Scores a round's updates and decides their pay.

    Attributes:
        wants_vectors: Whether it reads the updates' values, which then stay in memory for the round.
    """

    wants_vectors: bool

    def award(self, round_: int, admitted: "Sequence[Update]", preview: Preview) -> Mapping[int, Award]:
        """Return the score and pay of each admitted client of a round, by partition id.

        Args:
            round_: The round, counted from 1.
            admitted: The updates that were aggregated, by partition id; never empty.
            preview: Returns the state that an aggregated pseudo-gradient would lead to.
        """
        ...


@dataclass(frozen=True)
class Rewards:
    """How clients are identified and paid.

    Attributes:
        signatures: Their accounts; None: replies are not signed.
        scorer: Scores and pays their updates; None: nothing is paid.
    """

    signatures: Checking | None = None
    scorer: Scorer | None = None
