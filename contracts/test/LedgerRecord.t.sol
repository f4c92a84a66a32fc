// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {RewardLedger} from "../src/RewardLedger.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

contract LedgerRecordTest is Fixture {
    RewardLedger private ledger;

    function setUp() public {
        deployToken();
        ledger = deployLedger(0);
    }

    function test_aRecordIsWrittenDownWithAllItsFields() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(100, 20, 3));
        r.lastRound = 4;
        bytes memory signed = signatures(recordDigest(ledger, r));
        vm.expectEmit(address(ledger));
        emit RewardLedger.Recorded(
            1, 4, 0, uint64(block.timestamp), r.rewardsRoot, r.contributionsRoot, r.modelHash, r.evidenceHash, 123
        );
        ledger.record(r, signed);

        (uint64 lastRound, uint64 claimableAt, uint128 awardedBefore) = ledger.entries(1, r.rewardsRoot);
        vm.assertEq(lastRound, 4, "last round");
        vm.assertEq(claimableAt, block.timestamp, "claimable at once");
        vm.assertEq(awardedBefore, ledger.DUST(), "awarded before");
        vm.assertEq(ledger.nextRound(), 5, "next round");
        vm.assertEq(ledger.awarded(), 123 + ledger.DUST(), "awarded");
    }

    function test_whatIsAwardedLeavesTheReserve() public {
        post(ledger, amountsOf(100, 20, 3));
        vm.assertEq(token.balanceOf(address(ledger.reserve())), BUDGET - 123, "reserve");
        vm.assertEq(token.balanceOf(address(ledger)), 123 + ledger.DUST(), "ledger");
    }

    function test_aRoundThatPaysNobodyIsRecordedUnderTheSameRoot() public {
        post(ledger, amountsOf(100, 20, 3));
        vm.assertEq(post(ledger, amountsOf(100, 20, 3)), 2, "round");
        vm.assertEq(ledger.awarded(), 123 + ledger.DUST(), "awarded");
    }

    function test_aRoundCannotBeSkipped() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(1, 1, 1));
        (r.firstRound, r.lastRound) = (2, 2);
        _refused(r, abi.encodeWithSelector(RewardLedger.NotTheNextRound.selector, 2, 1));
    }

    function test_aRoundCannotBeRepeated() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(1, 1, 1));
        submit(ledger, r);
        _refused(r, abi.encodeWithSelector(RewardLedger.NotTheNextRound.selector, 1, 2));
    }

    function test_aRangeHasAtLeastOneRound() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(1, 1, 1));
        r.lastRound = 0;
        _refused(r, abi.encodeWithSelector(RewardLedger.EmptyRange.selector, 1, 0));
    }

    function test_aRangeThatLeavesNoNextRoundIsRefused() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(1, 1, 1));
        r.lastRound = type(uint64).max;
        _refused(r, abi.encodeWithSignature("Panic(uint256)", 0x11));
    }

    function test_aTotalCannotShrink() public {
        post(ledger, amountsOf(10, 10, 10));
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(10, 10, 9));
        _refused(r, abi.encodeWithSelector(RewardLedger.TotalShrinks.selector, 30, 31));
    }

    function test_aRecordMayAwardTheRoundCapForEachOfItsRounds() public {
        post(ledger, amountsOf(ROUND_CAP, 0, 0));
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(4 * ROUND_CAP, 0, 0));
        r.lastRound = r.firstRound + 2;
        submit(ledger, r);
        vm.assertEq(ledger.awarded(), 4 * ROUND_CAP + ledger.DUST(), "awarded");
    }

    function test_aRecordCannotAwardMoreThanTheRoundCapForEachOfItsRounds() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(2 * ROUND_CAP, 1, 0));
        r.lastRound = 2;
        _refused(r, abi.encodeWithSelector(RewardLedger.RoundCapExceeded.selector, 2 * ROUND_CAP + 1, 2 * ROUND_CAP));
    }

    function test_allRecordsTogetherMayAwardTheLifetimeCapAndNoMore() public {
        fund(ledger, LIFETIME_CAP);
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(LIFETIME_CAP, 0, 0));
        r.lastRound = 100;
        submit(ledger, r);
        r = recordOf(ledger, amountsOf(LIFETIME_CAP, 1, 0));
        _refused(r, abi.encodeWithSelector(RewardLedger.LifetimeCapExceeded.selector, LIFETIME_CAP + 1, LIFETIME_CAP));
    }

    function test_whatIsNotFundedCannotBeAwarded() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(BUDGET, 1, 0));
        r.lastRound = 51;
        _refused(
            r,
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, ledger.reserve(), BUDGET, BUDGET + 1)
        );
    }

    function testFuzz_anyPartitionOfTheRoundsIsRecordedWithoutAGap(uint8[10] calldata lengths) public {
        uint64 covered = 0;
        for (uint256 i = 0; i < lengths.length; i++) {
            RewardLedger.Record memory r = recordOf(ledger, amountsOf(i, i, i));
            r.lastRound = r.firstRound + lengths[i];
            submit(ledger, r);
            vm.assertEq(r.firstRound, covered + 1, "begins where the last one ended");
            covered += 1 + uint64(lengths[i]);
        }
        vm.assertEq(ledger.nextRound(), covered + 1, "next round");
    }

    function testFuzz_oneRoundAwardsUpToTheCap(uint256 total) public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(1, 1, 1));
        r.total = total % (2 * ROUND_CAP);
        if (r.total <= ROUND_CAP) {
            submit(ledger, r);
            vm.assertEq(ledger.awarded(), r.total + ledger.DUST(), "awarded");
        } else {
            _refused(r, abi.encodeWithSelector(RewardLedger.RoundCapExceeded.selector, r.total, ROUND_CAP));
        }
    }

    /// @dev Also with all the signatures it needs.
    function _refused(RewardLedger.Record memory r, bytes memory reason) private {
        bytes memory signed = signatures(recordDigest(ledger, r));
        vm.expectRevert(reason);
        ledger.record(r, signed);
    }
}
