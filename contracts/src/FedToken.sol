// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title The token that participants are paid in
/// @notice ERC-20 with permit. The whole supply goes to the deployer; nobody can mint more, and nobody owns it.
contract FedToken is ERC20Permit {
    /// @param supply Number of base units (10^-6 of a token).
    constructor(string memory name, string memory symbol, uint256 supply) ERC20(name, symbol) ERC20Permit(name) {
        _mint(msg.sender, supply);
    }

    /// @notice Six decimals keep every amount of a run below 2^63, which JSON readers and SQLite hold exactly.
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
