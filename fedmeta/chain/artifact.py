"""The compiled contracts that ship with the package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """A compiled contract.

    Attributes:
        name: Such as ``RewardLedger``.
        abi: As the compiler wrote it.
        bytecode: Creation code, without constructor arguments.
        deployed: Code on the chain, with zeros where immutables go.
        immutables: Byte ranges (start, length) of the immutables in it.
        compiler: Version and settings.
        source_hash: Of the sources it was made from.
    """

    name: str
    abi: Sequence[Mapping[str, Any]]
    bytecode: bytes
    deployed: bytes
    immutables: tuple[tuple[int, int], ...]
    compiler: Mapping[str, Any]
    source_hash: str

    @property
    def code_hash(self) -> bytes:
        """Keccak-256 of the deployed code with zeros for immutables."""
        raise NotImplementedError

    def matches(self, code: bytes) -> bool:
        """Return whether `code`, as on a chain, is this contract, whatever its immutables."""
        raise NotImplementedError

    def encode(self, function: str, *arguments: object) -> bytes:
        """Return the call data of a function."""
        raise NotImplementedError

    def decode(self, function: str, data: bytes) -> tuple[Any, ...]:
        """Return what a function returned."""
        raise NotImplementedError

    def creation(self, *arguments: object) -> bytes:
        """Return the data of the transaction that deploys it."""
        raise NotImplementedError

    def decode_log(self, event: str, log: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of an event by name."""
        raise NotImplementedError

    def topic(self, event: str) -> str:
        """Return the first topic of an event, as 0x text."""
        raise NotImplementedError


def load_artifact(name: str) -> Artifact:
    """Return a shipped contract: ``FedToken``, ``RewardLedger`` or ``ParticipantRegistry``.

    Raises:
        RunError: If the package is incomplete.
    """
    raise NotImplementedError
