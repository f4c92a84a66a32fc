// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {RewardsTree} from "../src/RewardsTree.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

contract RewardsTreeTest {
    function root(address account, uint256 amount, bytes32[] calldata proof) external pure returns (bytes32) {
        return RewardsTree.root(account, amount, proof);
    }

    function testFuzz_theRootIsOpenZeppelins(address account, uint256 amount, bytes32[] calldata proof) public pure {
        bytes32 expected = MerkleProof.processProofCalldata(proof, Tree.leaf(account, amount));
        vm.assertEq(RewardsTree.root(account, amount, proof), expected, "root");
    }

    function testFuzz_aLeafAndItsProofLeadToTheTreesRoot(address[] memory accounts, uint256 seed, uint256 index)
        public
        view
    {
        if (accounts.length == 0) return;
        uint256[] memory amounts = new uint256[](accounts.length);
        for (uint256 i = 0; i < amounts.length; i++) {
            amounts[i] = uint256(keccak256(abi.encode(seed, i)));
        }
        index %= accounts.length;
        bytes32[] memory proof = Tree.proof(accounts, amounts, index);
        vm.assertEq(this.root(accounts[index], amounts[index], proof), Tree.root(accounts, amounts), "root");
    }

    function test_aLeafWithoutAProofIsItsOwnRoot() public view {
        vm.assertEq(this.root(address(1), 2, new bytes32[](0)), Tree.leaf(address(1), 2), "root");
    }

    /// @dev An inner node is the hash of 64 bytes, as an account and an amount are; hashed once, it could pass as a
    /// leaf.
    function testFuzz_anInnerNodeIsNoLeaf(address account, uint256 amount, bytes32 sibling) public view {
        bytes32 leaf = Tree.leaf(account, amount);
        (bytes32 left, bytes32 right) = leaf < sibling ? (leaf, sibling) : (sibling, leaf);
        bytes32 node = Tree.pair(left, right);
        bytes32 forged = this.root(address(uint160(uint256(left))), uint256(right), new bytes32[](0));
        vm.assertTrue(forged != node, "an inner node was taken for a leaf");
    }
}
