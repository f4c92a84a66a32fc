// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @dev A Merkle tree over (account, amount), built level by level as a reader of the specification would: leaves
/// hashed twice, the smaller hash of a pair first, a node without a partner moves up as it is.
library Tree {
    function leaf(address account, uint256 amount) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, amount))));
    }

    function pair(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
    }

    function leaves(address[] memory accounts, uint256[] memory amounts)
        internal
        pure
        returns (bytes32[] memory nodes)
    {
        nodes = new bytes32[](accounts.length);
        for (uint256 i = 0; i < nodes.length; i++) {
            nodes[i] = leaf(accounts[i], amounts[i]);
        }
    }

    function root(address[] memory accounts, uint256[] memory amounts) internal pure returns (bytes32) {
        bytes32[] memory nodes = leaves(accounts, amounts);
        while (nodes.length > 1) nodes = _up(nodes);
        return nodes[0];
    }

    function proof(address[] memory accounts, uint256[] memory amounts, uint256 index)
        internal
        pure
        returns (bytes32[] memory path)
    {
        path = new bytes32[](0);
        for (bytes32[] memory nodes = leaves(accounts, amounts); nodes.length > 1; nodes = _up(nodes)) {
            uint256 sibling = index ^ 1;
            if (sibling < nodes.length) path = _append(path, nodes[sibling]);
            index /= 2;
        }
    }

    function _up(bytes32[] memory nodes) private pure returns (bytes32[] memory above) {
        above = new bytes32[]((nodes.length + 1) / 2);
        for (uint256 i = 0; i < above.length; i++) {
            above[i] = 2 * i + 1 < nodes.length ? pair(nodes[2 * i], nodes[2 * i + 1]) : nodes[2 * i];
        }
    }

    function _append(bytes32[] memory path, bytes32 node) private pure returns (bytes32[] memory longer) {
        longer = new bytes32[](path.length + 1);
        for (uint256 i = 0; i < path.length; i++) {
            longer[i] = path[i];
        }
        longer[path.length] = node;
    }
}
