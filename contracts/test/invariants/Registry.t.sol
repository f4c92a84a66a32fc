// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ParticipantRegistry} from "../../src/ParticipantRegistry.sol";
import {RewardLedger} from "../../src/RewardLedger.sol";
import {vm} from "../Vm.sol";
import {RegistryHandler} from "./RegistryHandler.sol";

/// @dev Stakes are conserved, whatever anyone does.
contract RegistryInvariants {
    RegistryHandler private handler;
    ParticipantRegistry private registry;
    RewardLedger private ledger;
    uint256 private budget;

    function setUp() public {
        handler = new RegistryHandler();
        registry = handler.registry();
        ledger = handler.ledger();
        budget = ledger.funded();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_stakesAreConserved() external view {
        vm.assertTrue(!handler.signaturesReused(), "no slash works twice, or on a later stake");
        vm.assertTrue(!handler.withdrawnTooEarly(), "no stake comes back early");
        vm.assertTrue(!handler.slashedTooMuch(), "no stake is slashed past the cap");
        vm.assertEq(handler.balanceOf(handler.OUTSIDER()), 0, "nobody but the account is paid");
        uint256 stakes = 0;
        for (uint256 who = 0; who < 3; who++) {
            (uint128 stake,,) = registry.members(handler.account(who));
            stakes += stake;
        }
        vm.assertLe(stakes, handler.balanceOf(address(registry)), "the registry never holds less than the stakes");
        vm.assertEq(ledger.funded(), budget + handler.slashed(), "what is slashed funds the ledger");
        for (uint256 who = 0; who < 3; who++) {
            address account = handler.account(who);
            (uint128 stake, uint64 withdrawableAt,) = registry.members(account);
            vm.assertEq(handler.balanceOf(account), handler.withdrawn(account), "a stake comes back whole, and once");
            vm.assertEq(stake, handler.staked(account), "a stake falls by what is slashed");
            vm.assertEq(withdrawableAt, handler.withdrawableAt(account), "a stake waits for its delay");
        }
    }

    /// @dev The random walks above are worth what they reach: one long walk reaches every outcome.
    function test_theHandlerReachesEveryOutcome() external {
        bytes4[6] memory actions = [
            handler.join.selector,
            handler.leave.selector,
            handler.withdraw.selector,
            handler.slash.selector,
            handler.replay.selector,
            handler.warp.selector
        ];
        for (uint256 i = 0; i < 500; i++) {
            uint256 seed = uint256(keccak256(abi.encode("walk", i)));
            (bool done,) = address(handler).call(abi.encodeWithSelector(actions[seed % 6], seed >> 8, seed >> 16));
            vm.assertTrue(done, "an action failed");
        }
        string[9] memory outcomes = [
            "joined",
            "left",
            "withdrawn",
            "withdrawn after a slash",
            "withdrawal refused",
            "slashed",
            "slashed while unbonding",
            "slash refused",
            "replayed within the cap"
        ];
        for (uint256 i = 0; i < outcomes.length; i++) {
            vm.assertTrue(handler.count(outcomes[i]) > 0, outcomes[i]);
        }
    }
}
