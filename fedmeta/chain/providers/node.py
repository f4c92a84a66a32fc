"""Anvil and Ganache as processes of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NodeKind = Literal["anvil", "ganache"]


@dataclass
class Node:
    """A running node.

    Attributes:
        kind: anvil or ganache.
        url: Where it answers.
        chain_id: Its chain id.
        accounts: Funded development accounts: address and private key, as 0x text.
        folder: Where its state is kept.
        pid: Its process.
    """

    kind: NodeKind
    url: str
    chain_id: int
    accounts: tuple[tuple[str, str], ...]
    folder: Path
    pid: int

    def stop(self) -> None:
        """Stop it with its state saved."""
        raise NotImplementedError

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit status."""
        raise NotImplementedError


def start_node(
    kind: NodeKind, folder: Path, port: int | None = None, chain_id: int = 31337, accounts: int = 10
) -> Node:
    """Start a node on 127.0.0.1 and wait until it answers.

    Raises:
        UsageError: No binary, a port or folder in use.
        RunError: If it started and did not answer.
    """
    raise NotImplementedError


def banner(node: Node) -> str:
    """Return what `fedmeta chain up` shows: accounts, keys, chain id, URL, and a warning."""
    raise NotImplementedError
