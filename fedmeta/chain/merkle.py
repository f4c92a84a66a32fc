"""Merkle trees, identical to those of OpenZeppelin's `StandardMerkleTree` (1.0.8).

A leaf is the double hash of its ABI-encoded values, so an inner node cannot pass for one. Leaves are
sorted by hash and pairs are hashed in sorted order, so proofs need no directions.
"""

from collections.abc import Iterable

from fedmeta.chain.hashing import from_address, keccak

EMPTY_ROOT = bytes(32)

_PADDING = bytes(12)


class MerkleTree:
    """The complete binary tree over leaves of 32 bytes each, given in any order.

    Attributes:
        nodes: All hashes: the root first, the leaves last in descending order; empty without leaves.
        root: The root, 32 bytes; without leaves `EMPTY_ROOT`, under which nothing can be proven.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        last = sorted(leaves, reverse=True)
        inner = max(len(last) - 1, 0)
        nodes = [b""] * inner + last
        for place in reversed(range(inner)):
            left, right = nodes[2 * place + 1], nodes[2 * place + 2]
            nodes[place] = keccak(left + right if left < right else right + left)
        self.nodes = nodes
        self.root = nodes[0] if nodes else EMPTY_ROOT
        self._places = {leaf: inner + index for index, leaf in enumerate(last)}

    def proof(self, leaf: bytes) -> list[bytes]:
        """Return the siblings on the path from `leaf` to the root; a `KeyError` without such a leaf."""
        place = self._places[leaf]
        path = []
        while place > 0:
            # Children of i are at 2i + 1, which is odd, and 2i + 2.
            path.append(self.nodes[place + 1 if place % 2 else place - 1])
            place = (place - 1) // 2
        return path


Account = str | bytes
"""An address: ``0x`` and 40 hexadecimal digits, or its 20 bytes."""


def _word(account: Account) -> bytes:
    return _PADDING + (from_address(account) if isinstance(account, str) else account)


def reward_leaf(account: Account, amount: int) -> bytes:
    """Return the leaf of an account's total award, in token units."""
    return keccak(keccak(_word(account) + amount.to_bytes(32)))


def contribution_leaf(account: Account, round_: int, tasks: int, update: bytes, reward: int) -> bytes:
    """Return the leaf of one client's contribution to one round."""
    if len(update) != 32:
        raise ValueError(f"an update's digest has 32 bytes, not {len(update)}")
    words = round_.to_bytes(8).rjust(32, b"\0") + tasks.to_bytes(8).rjust(32, b"\0")
    return keccak(keccak(_word(account) + words + update + reward.to_bytes(32)))


def rewards_tree(rewards: Iterable[tuple[Account, int]]) -> MerkleTree:
    """Return the tree over (account, cumulative units); values ``["address", "uint256"]``."""
    return MerkleTree(reward_leaf(account, amount) for account, amount in rewards)


def contributions_tree(contributions: Iterable[tuple[Account, int, int, bytes, int]]) -> MerkleTree:
    """Return the tree over (account, round, tasks, update digest, units).

    Values ``["address", "uint64", "uint64", "bytes32", "uint256"]``.
    """
    return MerkleTree(contribution_leaf(*contribution) for contribution in contributions)
