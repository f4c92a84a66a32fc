// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Proofs of OpenZeppelin's StandardMerkleTree over (address account, uint256 cumulative)
library RewardsTree {
    /// @dev The root that a leaf and its proof lead to. The same as `MerkleProof.processProofCalldata` on the leaf's
    /// double hash, which keeps a leaf from being an inner node. Written out because a claim pays for every level:
    /// at 10,000 participants this takes 1,500 gas off it.
    function root(address account, uint256 cumulative, bytes32[] calldata proof) internal pure returns (bytes32 node) {
        // The first 64 bytes of memory are scratch space, which Solidity leaves to its users between statements.
        assembly ("memory-safe") {
            mstore(0x00, shr(96, shl(96, account)))
            mstore(0x20, cumulative)
            mstore(0x00, keccak256(0x00, 0x40))
            node := keccak256(0x00, 0x20)
            let end := add(proof.offset, shl(5, proof.length))
            for { let at := proof.offset } lt(at, end) { at := add(at, 0x20) } {
                let sibling := calldataload(at)
                // Of each pair the smaller comes first: `place` is 0x00 for the node if it is, else 0x20.
                let place := shl(5, gt(node, sibling))
                mstore(place, node)
                mstore(xor(place, 0x20), sibling)
                node := keccak256(0x00, 0x40)
            }
        }
    }
}
