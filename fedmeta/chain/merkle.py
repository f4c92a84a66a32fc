"""Merkle trees, byte for byte those of OpenZeppelin's `StandardMerkleTree`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EMPTY_ROOT = bytes(32)


@dataclass(frozen=True)
class MerkleTree:
    """A complete binary tree over sorted leaves.

    Attributes:
        root: 32 bytes; `EMPTY_ROOT`, of which nothing can be proven, if there are no leaves.
        nodes: All hashes, the root first, the leaves last in falling order.
    """

    root: bytes
    nodes: tuple[bytes, ...]

    def proof(self, leaf: bytes) -> list[bytes]:
        """Return the hashes that lead from `leaf` (see `reward_leaf`) to the root.

        Raises:
            KeyError: If the tree has no such leaf.
        """
        raise NotImplementedError


def reward_leaf(account: str, amount: int) -> bytes:
    """Return the leaf of what an account was awarded in all, in token units."""
    raise NotImplementedError


def contribution_leaf(account: str, round_: int, tasks: int, update: bytes, reward: int) -> bytes:
    """Return the leaf of one client's contribution to one round."""
    raise NotImplementedError


def rewards_tree(rewards: Iterable[tuple[str, int]]) -> MerkleTree:
    """Return the tree over (account, cumulative units)."""
    raise NotImplementedError


def contributions_tree(contributions: Iterable[tuple[str, int, int, bytes, int]]) -> MerkleTree:
    """Return the tree over (account, round, tasks, update digest, units)."""
    raise NotImplementedError


def verify(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether `proof` leads from `leaf` to `root`."""
    raise NotImplementedError
