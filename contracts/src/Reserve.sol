// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title Holds the tokens that a ledger has not awarded
/// @notice Only the ledger that created it can take tokens out.
contract Reserve {
    address private immutable _ledger = msg.sender;
    IERC20 private immutable _token;

    error NotTheLedger(address caller);

    constructor(IERC20 token) {
        _token = token;
    }

    /// @notice Sends tokens out.
    function release(address to, uint256 amount) external {
        if (msg.sender != _ledger) revert NotTheLedger(msg.sender);
        SafeERC20.safeTransfer(_token, to, amount);
    }
}
