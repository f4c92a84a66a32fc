"""A chain behind JSON-RPC, its errors normalised in one place."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from web3 import Web3

Call = tuple[str, Sequence[object]]


class Transport(Protocol):
    """What carries JSON-RPC requests; a reply is the dict with ``result`` or ``error``."""

    def send(self, calls: Sequence[Call]) -> list[dict[str, Any]]:
        """Return the replies to `calls` in order.

        Raises:
            ChainDownError: If the node did not answer.
        """

    def close(self) -> None:
        """Let go of the node; if it is ours, stop it with its state saved."""


class Chain:
    """One chain; calls may come from several threads.

    Attributes:
        chain_id: As the node says.
        genesis: Hash of block 0, 32 bytes: which chain of that id it is.
        w3: A web3 that goes through `request`; its errors are ours.
    """

    chain_id: int
    genesis: bytes

    @property
    def w3(self) -> "Web3":
        """A web3 on this chain, made when first used."""
        raise NotImplementedError

    def request(self, method: str, params: Sequence[object] = ()) -> Any:
        """Return the result of one JSON-RPC call (quantities and data are 0x text).

        Raises:
            ChainDownError: The node did not answer in time.
            RevertedError: A contract refused; its custom error decoded.
            RpcError: The node refused.
        """
        raise NotImplementedError

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of several calls, in one round trip where the transport can.

        A call that failed has its `ChainError` in its place.

        Raises:
            ChainDownError: The node did not answer in time.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the chain; if it is ours, stop it with its state saved. Twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> "Chain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
