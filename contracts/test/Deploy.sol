// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FedToken} from "../src/FedToken.sol";
import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {RewardLedger} from "../src/RewardLedger.sol";
import {vm} from "./Vm.sol";

/// @dev Deploys the bytecode that ships with the Python package; with CONTRACTS=source in the environment, what was
/// just compiled (for coverage, and for planted bugs).
library Deploy {
    function token(string memory name, string memory symbol, uint256 supply) internal returns (FedToken) {
        return FedToken(_create("FedToken", abi.encode(name, symbol, supply)));
    }

    function ledger(RewardLedger.Terms memory terms) internal returns (RewardLedger) {
        return RewardLedger(_create("RewardLedger", abi.encode(terms)));
    }

    function registry(RewardLedger ledger_, uint128 stake, uint128 slashCap, uint40 unbonding)
        internal
        returns (ParticipantRegistry)
    {
        bytes memory arguments = abi.encode(ledger_, stake, slashCap, unbonding);
        return ParticipantRegistry(_create("ParticipantRegistry", arguments));
    }

    function _create(string memory name, bytes memory arguments) private returns (address created) {
        bool source = keccak256(bytes(vm.envOr("CONTRACTS", "shipped"))) == keccak256("source");
        string memory artifact =
            source ? string.concat(name, ".sol:", name) : string.concat("../fedmeta/chain/artifacts/", name, ".json");
        bytes memory code = bytes.concat(vm.getCode(artifact), arguments);
        assembly ("memory-safe") {
            created := create(0, add(code, 0x20), mload(code))
            if iszero(created) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }
}
