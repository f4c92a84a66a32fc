// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {Reserve} from "../src/Reserve.sol";
import {RewardLedger} from "../src/RewardLedger.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

contract LedgerFundingTest is Fixture {
    address private constant SINK = address(0x51);

    RewardLedger private ledger;

    function setUp() public {
        deployToken();
        ledger = Deploy.ledger(terms(0));
    }

    function test_theFirstFundingAwardsOneUnitToNobody() public {
        fund(ledger, 500);
        vm.assertEq(ledger.funded(), 500, "funded");
        vm.assertEq(ledger.awarded(), 1, "awarded");
        vm.assertEq(ledger.unawarded(), 499, "not awarded");
        vm.assertEq(ledger.paid(), 0, "paid");
        vm.assertEq(token.balanceOf(address(ledger)), 1, "ledger");
        fund(ledger, 500);
        vm.assertEq(ledger.awarded(), 1, "awarded once");
        vm.assertEq(ledger.funded(), 1_000, "funded twice");
    }

    function test_anyoneMayFund() public {
        token.transfer(address(0xF), 70);
        vm.prank(address(0xF));
        token.approve(address(ledger), 70);
        vm.expectEmit(address(ledger));
        emit RewardLedger.Funded(address(0xF), 70);
        vm.prank(address(0xF));
        ledger.fund(70);
        vm.assertEq(ledger.funded(), 70, "funded");
    }

    function test_fundingNeedsTheCallersApproval() public {
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(ledger), 0, 5));
        ledger.fund(5);
    }

    function test_tokensSentToTheReserveFundTheLedger() public {
        fund(ledger, 500);
        token.transfer(address(ledger.reserve()), 100);
        vm.assertEq(ledger.funded(), 600, "funded");
    }

    function test_tokensSentToTheLedgerAreNotFunding() public {
        fund(ledger, 500);
        token.transfer(address(ledger), 100);
        vm.assertEq(ledger.funded(), 500, "funded");
        vm.assertEq(ledger.paid(), 0, "paid");
        vm.warp(ledger.deadline() + 1);
        ledger.sweep(SINK);
        vm.assertEq(token.balanceOf(SINK), 499, "swept");
    }

    function test_theSponsorSweepsWhatIsNotAwardedAfterTheDeadline() public {
        fund(ledger, BUDGET);
        post(ledger, amountsOf(100, 20, 3));
        vm.warp(ledger.deadline() + 1);
        vm.expectEmit(address(ledger));
        emit RewardLedger.Swept(SINK, BUDGET - 124);
        ledger.sweep(SINK);
        vm.assertEq(token.balanceOf(SINK), BUDGET - 124, "swept");
        vm.assertEq(ledger.funded(), 124, "funded");
        claim(ledger, 1, amountsOf(100, 20, 3), 0);
        vm.assertEq(token.balanceOf(accounts[0]), 100, "still paid");
    }

    function test_whatIsQueuedIsNotSwept() public {
        ledger = Deploy.ledger(terms(LIFETIME * 2));
        fund(ledger, BUDGET);
        post(ledger, amountsOf(100, 20, 3));
        vm.warp(ledger.deadline() + 1);
        ledger.sweep(SINK);
        vm.assertEq(token.balanceOf(SINK), BUDGET - 124, "swept");
    }

    function test_nothingIsSweptUntilTheDeadlineIsOver() public {
        fund(ledger, 500);
        vm.warp(ledger.deadline());
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.BeforeDeadline.selector, ledger.deadline()));
        ledger.sweep(SINK);
    }

    function test_onlyTheSponsorSweeps() public {
        fund(ledger, 500);
        vm.warp(ledger.deadline() + 1);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.NotTheSponsor.selector, address(0xBAD)));
        vm.prank(address(0xBAD));
        ledger.sweep(address(0xBAD));
    }

    function test_aRecordThatFindsNothingLeftIsRefused() public {
        fund(ledger, BUDGET);
        vm.warp(ledger.deadline() + 1);
        ledger.sweep(SINK);
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(1, 0, 0));
        bytes memory signed = signatures(recordDigest(ledger, r));
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, ledger.reserve(), 0, 1));
        ledger.record(r, signed);
    }

    function test_onlyTheLedgerTakesTokensOutOfTheReserve() public {
        fund(ledger, 500);
        Reserve reserve = ledger.reserve();
        vm.expectRevert(abi.encodeWithSelector(Reserve.NotTheLedger.selector, address(this)));
        reserve.release(address(this), 1);
    }
}
