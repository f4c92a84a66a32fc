// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Committee} from "../src/Committee.sol";
import {RewardLedger} from "../src/RewardLedger.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

contract LedgerTermsTest is Fixture {
    function setUp() public {
        deployToken();
    }

    function test_aLedgerKeepsItsTerms() public {
        RewardLedger ledger = Deploy.ledger(terms(7));
        vm.assertEq(address(ledger.token()), address(token), "token");
        vm.assertEq(ledger.sponsor(), address(this), "sponsor");
        vm.assertEq(ledger.campaign(), CAMPAIGN, "campaign");
        vm.assertEq(ledger.threshold(), THRESHOLD, "threshold");
        vm.assertEq(ledger.roundCap(), ROUND_CAP, "round cap");
        vm.assertEq(ledger.lifetimeCap(), LIFETIME_CAP, "lifetime cap");
        vm.assertEq(ledger.deadline(), block.timestamp + LIFETIME, "deadline");
        vm.assertEq(ledger.challengeDelay(), 7, "challenge delay");
        vm.assertEq(keccak256(abi.encode(ledger.committee())), keccak256(abi.encode(members())), "committee");
        vm.assertTrue(ledger.isMember(members()[4]) && !ledger.isMember(address(this)), "membership");
        vm.assertEq(ledger.nextRound(), 1, "first round");
    }

    function test_aLedgerWithoutASponsorIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        bad.sponsor = address(0);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.ZeroSponsor.selector));
        Deploy.ledger(bad);
    }

    function test_aDeadlineThatHasPassedIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        bad.deadline = uint40(block.timestamp);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.DeadlinePassed.selector, block.timestamp));
        Deploy.ledger(bad);
    }

    function test_aThresholdOfZeroIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        bad.threshold = 0;
        vm.expectRevert(abi.encodeWithSelector(Committee.ThresholdOutOfRange.selector, 0, 5));
        Deploy.ledger(bad);
    }

    function test_aThresholdAboveTheCommitteeIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        bad.threshold = 6;
        vm.expectRevert(abi.encodeWithSelector(Committee.ThresholdOutOfRange.selector, 6, 5));
        Deploy.ledger(bad);
    }

    function test_aZeroAddressInTheCommitteeIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        bad.committee[0] = address(0);
        vm.expectRevert(abi.encodeWithSelector(Committee.MembersNotAscending.selector, address(0)));
        Deploy.ledger(bad);
    }

    function test_aMemberTwiceIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        bad.committee[3] = bad.committee[2];
        vm.expectRevert(abi.encodeWithSelector(Committee.MembersNotAscending.selector, bad.committee[2]));
        Deploy.ledger(bad);
    }

    function test_anUnsortedCommitteeIsRefused() public {
        RewardLedger.Terms memory bad = terms(0);
        (bad.committee[0], bad.committee[1]) = (bad.committee[1], bad.committee[0]);
        vm.expectRevert(abi.encodeWithSelector(Committee.MembersNotAscending.selector, bad.committee[1]));
        Deploy.ledger(bad);
    }
}
