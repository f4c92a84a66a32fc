// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardLedger} from "../src/RewardLedger.sol";
import {Fixture} from "./Fixture.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

contract LedgerVetoTest is Fixture {
    uint40 private constant DELAY = 1 hours;

    RewardLedger private ledger;
    uint256[] private first = amountsOf(100, 20, 0);
    uint256[] private second = amountsOf(150, 20, 5);
    uint256[] private third = amountsOf(160, 20, 5);
    bytes32 private firstRoot = Tree.root(accounts, first);
    bytes32 private secondRoot = Tree.root(accounts, second);
    bytes32 private thirdRoot = Tree.root(accounts, third);

    function setUp() public {
        deployToken();
        ledger = deployLedger(DELAY);
        post(ledger, first);
        vm.warp(block.timestamp + DELAY);
        post(ledger, second);
        post(ledger, third);
    }

    function test_aVetoDropsTheRecordAndAllAfterIt() public {
        vm.expectEmit(address(ledger));
        emit RewardLedger.Vetoed(2, 3, 0, "evidence");
        veto(ledger, 2, rootsOf(secondRoot, thirdRoot));
        vm.assertEq(ledger.nextRound(), 2, "next round");
        vm.assertEq(ledger.epoch(), 1, "epoch");
        vm.assertEq(ledger.awarded(), 120 + ledger.DUST(), "awarded");
        vm.assertEq(ledger.unawarded(), BUDGET - 120, "back in the reserve");
        vm.warp(block.timestamp + 10 * DELAY);
        _unknown(2, second);
        _unknown(3, third);
    }

    function test_aVetoLeavesEarlierRecordsAlone() public {
        veto(ledger, 3, rootsOf(thirdRoot));
        claim(ledger, 1, first, 0);
        vm.warp(block.timestamp + DELAY);
        claim(ledger, 2, second, 0);
        vm.assertEq(token.balanceOf(accounts[0]), 150, "account");
    }

    function test_aVetoedRootMayBeRecordedAgainOnItsOwnClock() public {
        veto(ledger, 2, rootsOf(secondRoot, thirdRoot));
        vm.warp(block.timestamp + DELAY - 1);
        post(ledger, second);
        uint256 claimableAt = block.timestamp + DELAY;
        vm.warp(claimableAt - 1);
        bytes32[] memory proof = Tree.proof(accounts, second, 0);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.NotClaimableYet.selector, claimableAt));
        ledger.claim(2, accounts[0], 150, proof);
        vm.warp(claimableAt);
        ledger.claim(2, accounts[0], 150, proof);
    }

    /// @dev A record of rounds 2 to 3 replaces the two; the entry that began with round 3 is gone for good.
    function test_aVetoedSuccessorStaysDroppedWhenItsRoundsAreRecordedAgain() public {
        veto(ledger, 2, rootsOf(secondRoot, thirdRoot));
        RewardLedger.Record memory r = recordOf(ledger, third);
        r.lastRound = 3;
        submit(ledger, r);
        vm.warp(block.timestamp + DELAY);
        _unknown(3, third);
        claim(ledger, 2, third, 0);
    }

    function test_aClaimableRecordCannotBeVetoed() public {
        vm.warp(block.timestamp + DELAY);
        _refused(
            2,
            rootsOf(secondRoot, thirdRoot),
            abi.encodeWithSelector(RewardLedger.NoLongerQueued.selector, 2, block.timestamp)
        );
    }

    function test_aRecordCanBeVetoedUntilTheLastSecond() public {
        vm.warp(block.timestamp + DELAY - 1);
        veto(ledger, 2, rootsOf(secondRoot, thirdRoot));
        vm.assertEq(ledger.nextRound(), 2, "next round");
    }

    function test_withoutADelayNothingCanBeVetoed() public {
        ledger = deployLedger(0);
        post(ledger, first);
        _refused(
            1, rootsOf(firstRoot), abi.encodeWithSelector(RewardLedger.NoLongerQueued.selector, 1, block.timestamp)
        );
    }

    function test_aVetoThatNamesNoRecordIsRefused() public {
        _refused(2, new bytes32[](0), abi.encodeWithSelector(RewardLedger.VetoEndsEarly.selector, 2, 4));
        _refused(4, new bytes32[](0), abi.encodeWithSelector(RewardLedger.VetoEndsEarly.selector, 4, 4));
    }

    function test_aVetoThatForgetsASuccessorIsRefused() public {
        _refused(2, rootsOf(secondRoot), abi.encodeWithSelector(RewardLedger.VetoEndsEarly.selector, 3, 4));
    }

    function test_aVetoOfAnUnknownRecordIsRefused() public {
        _refused(2, rootsOf(thirdRoot), abi.encodeWithSelector(RewardLedger.UnknownRecord.selector, 2, thirdRoot));
        _refused(
            3, rootsOf(thirdRoot, thirdRoot), abi.encodeWithSelector(RewardLedger.UnknownRecord.selector, 4, thirdRoot)
        );
    }

    /// @dev The first record's leaves promised 900 more than it awarded. What that took from the queue stays awarded.
    function test_aVetoTakesBackWhatAnEarlierBadRootHasLeft() public {
        ledger = deployLedger(DELAY);
        RewardLedger.Record memory bad = recordOf(ledger, amountsOf(1_000, 0, 0));
        bad.total = 100;
        submit(ledger, bad);
        vm.warp(block.timestamp + DELAY);
        RewardLedger.Record memory queued = recordOf(ledger, amountsOf(1_000, 0, 50));
        submit(ledger, queued);
        claim(ledger, 1, amountsOf(1_000, 0, 0), 0);

        veto(ledger, 2, rootsOf(queued.rewardsRoot));
        vm.assertEq(ledger.paid(), 1_000, "paid");
        vm.assertEq(ledger.awarded(), 1_000, "awarded");
        vm.assertEq(ledger.funded(), BUDGET + ledger.DUST(), "funded");
        vm.assertEq(token.balanceOf(address(ledger)), 0, "the queue's tokens");
    }

    function _unknown(uint64 round, uint256[] memory amounts) private {
        bytes32[] memory proof = Tree.proof(accounts, amounts, 0);
        vm.expectRevert(
            abi.encodeWithSelector(RewardLedger.UnknownRecord.selector, round, Tree.root(accounts, amounts))
        );
        ledger.claim(round, accounts[0], amounts[0], proof);
    }

    function _refused(uint64 firstRound, bytes32[] memory roots, bytes memory reason) private {
        bytes memory signed = signatures(vetoDigest(ledger, firstRound, "evidence"));
        vm.expectRevert(reason);
        ledger.veto(firstRound, roots, "evidence", signed);
    }
}
