"""Trees are OpenZeppelin's; the vectors are its own JavaScript library's (see vectors/)."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from fedmeta.chain.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    contribution_leaf,
    contributions_tree,
    reward_leaf,
    rewards_tree,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "merkle.json").read_text(encoding="utf-8"))


def verify(root: bytes, leaf: bytes, proof: list[bytes]) -> bool:
    """Whether a proof leads from a leaf to the root, as OpenZeppelin's contract computes it."""
    node = leaf
    for sibling in proof:
        node = keccak(b"".join(sorted((node, sibling))))
    return node == root


# The same values as in vectors/make_merkle.mjs.
def address(index: int) -> str:
    return f"0x{(index + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**160:040x}"


def rewards(count: int) -> list[tuple[str, int]]:
    return [(address(i), i * 1_000_003) for i in range(count)]


def contributions(count: int) -> list[tuple[str, int, int, bytes, int]]:
    return [(address(i), 1 + i % 5, i, (i * i + 7).to_bytes(32), i**3) for i in range(count)]


def case(kind: str, count: int) -> tuple[MerkleTree, list[bytes]]:
    if kind == "rewards":
        return rewards_tree(rewards(count)), [reward_leaf(*r) for r in rewards(count)]
    return contributions_tree(contributions(count)), [
        contribution_leaf(*c) for c in contributions(count)
    ]


@pytest.mark.parametrize("kind", ["rewards", "contributions"])
@pytest.mark.parametrize("index", range(len(VECTORS["rewards"])))
def test_roots_leaves_and_proofs_are_openzeppelins(kind: str, index: int) -> None:
    expected: dict[str, Any] = VECTORS[kind][index]
    tree, leaves = case(kind, expected["count"])
    assert "0x" + tree.root.hex() == expected["root"]
    assert "0x" + leaves[0].hex() == expected["leaf"]
    for leaf, proof in zip(leaves, expected["proofs"], strict=False):
        assert ["0x" + node.hex() for node in tree.proof(leaf)] == proof


def test_the_order_of_the_entries_does_not_matter() -> None:
    assert rewards_tree(rewards(13)[::-1]).root == rewards_tree(rewards(13)).root


def test_every_leaf_of_a_tree_is_proven_and_no_other() -> None:
    tree, leaves = case("rewards", 13)
    other = reward_leaf(address(0), 1)
    for leaf in leaves:
        assert verify(tree.root, leaf, tree.proof(leaf))
        assert not verify(tree.root, other, tree.proof(leaf))
    with pytest.raises(KeyError):
        tree.proof(other)


def test_an_inner_node_is_not_a_leaf() -> None:
    tree, _ = case("rewards", 8)
    with pytest.raises(KeyError):
        tree.proof(tree.nodes[1])


def test_nothing_can_be_proven_of_an_empty_tree() -> None:
    tree = rewards_tree([])
    assert tree.root == EMPTY_ROOT == bytes(32)
    assert not verify(tree.root, reward_leaf(address(0), 0), [])


@pytest.mark.parametrize("amount", [-1, 2**256])
def test_an_amount_that_is_not_a_uint256_is_refused(amount: int) -> None:
    with pytest.raises(OverflowError):
        reward_leaf(address(0), amount)


@pytest.mark.parametrize("values", [(2**64, 0), (0, 2**64), (-1, 0)])
def test_rounds_and_tasks_that_are_not_uint64_are_refused(values: tuple[int, int]) -> None:
    with pytest.raises(OverflowError):
        contribution_leaf(address(0), *values, bytes(32), 0)


def test_an_update_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        contribution_leaf(address(0), 1, 1, bytes(31), 0)


def test_ten_thousand_leaves_take_a_fraction_of_a_second() -> None:
    entries = rewards(10_000)
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        rewards_tree(entries)
        best = min(best, time.process_time() - start)
    # 0.03 s with the C module, 0.25 s without.
    assert best < 0.6
