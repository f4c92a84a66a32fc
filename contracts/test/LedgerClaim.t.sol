// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardLedger} from "../src/RewardLedger.sol";
import {Fixture} from "./Fixture.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

contract LedgerClaimTest is Fixture {
    RewardLedger private ledger;
    uint256[] private first = amountsOf(100, 20, 0);
    uint256[] private second = amountsOf(150, 20, 5);

    function setUp() public {
        deployToken();
        ledger = deployLedger(0);
        post(ledger, first);
    }

    function test_aClaimPaysTheLeafsAccountWhoeverSubmitsIt() public {
        vm.prank(address(0xBAD));
        claim(ledger, 1, first, 0);
        vm.assertEq(token.balanceOf(accounts[0]), 100, "account");
        vm.assertEq(token.balanceOf(address(0xBAD)), 0, "submitter");
        vm.assertEq(ledger.claimed(accounts[0]), 100, "claimed");
    }

    function test_aSecondClaimIsRefused() public {
        claim(ledger, 1, first, 0);
        bytes32[] memory proof = Tree.proof(accounts, first, 0);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.NothingDue.selector, accounts[0], 100));
        ledger.claim(1, accounts[0], 100, proof);
    }

    function test_aLaterClaimPaysTheDifference() public {
        claim(ledger, 1, first, 0);
        post(ledger, second);
        claim(ledger, 2, second, 0);
        vm.assertEq(token.balanceOf(accounts[0]), 150, "account");
    }

    function test_anEarlierRootStaysClaimable() public {
        post(ledger, second);
        claim(ledger, 1, first, 1);
        vm.assertEq(token.balanceOf(accounts[1]), 20, "account");
    }

    function test_anEarlierRootPaysNothingAfterALaterOne() public {
        post(ledger, second);
        claim(ledger, 2, second, 0);
        bytes32[] memory proof = Tree.proof(accounts, first, 0);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.NothingDue.selector, accounts[0], 150));
        ledger.claim(1, accounts[0], 100, proof);
    }

    function test_anotherAccountsProofIsRefused() public {
        _unknown(1, address(0xBAD), 100, Tree.proof(accounts, first, 0));
    }

    function test_anotherAmountIsRefused() public {
        _unknown(1, accounts[0], 101, Tree.proof(accounts, first, 0));
    }

    function test_aRootOfAnotherRoundIsRefused() public {
        post(ledger, second);
        _unknown(2, accounts[0], 100, Tree.proof(accounts, first, 0));
    }

    function testFuzz_noOtherLeafIsPaid(uint64 round, address account, uint256 amount, bytes32[] calldata proof)
        public
    {
        (bool paid,) = address(ledger).call(abi.encodeCall(ledger.claim, (round, account, amount, proof)));
        vm.assertTrue(!paid, "a claim out of thin air was paid");
    }

    function test_aBatchPaysEveryoneAndPassesOverThoseWithNothingDue() public {
        claim(ledger, 1, first, 1);
        RewardLedger.Claim[] memory claims = new RewardLedger.Claim[](3);
        for (uint256 i = 0; i < 3; i++) {
            claims[i] = RewardLedger.Claim(accounts[i], first[i], Tree.proof(accounts, first, i));
        }
        ledger.claimMany(1, claims);
        for (uint256 i = 0; i < 3; i++) {
            vm.assertEq(token.balanceOf(accounts[i]), first[i], "account");
        }
    }

    function test_aBatchWithABadProofPaysNobody() public {
        RewardLedger.Claim[] memory claims = new RewardLedger.Claim[](2);
        claims[0] = RewardLedger.Claim(accounts[0], 100, Tree.proof(accounts, first, 0));
        claims[1] = RewardLedger.Claim(accounts[1], 21, Tree.proof(accounts, first, 1));
        (bool done,) = address(ledger).call(abi.encodeCall(ledger.claimMany, (1, claims)));
        vm.assertTrue(!done, "accepted");
        vm.assertEq(token.balanceOf(accounts[0]), 0, "account");
    }

    /// @dev Leaves that promise more than the record's total: first come, first served, and not a unit of what is not
    /// awarded.
    function test_aRootThatPromisesTooMuchCannotReachWhatIsNotAwarded() public {
        RewardLedger.Record memory r = recordOf(ledger, amountsOf(500, 500, 0));
        r.total = 700;
        submit(ledger, r);
        claim(ledger, 2, amountsOf(500, 500, 0), 0);
        bytes32[] memory proof = Tree.proof(accounts, amountsOf(500, 500, 0), 1);
        vm.expectRevert();
        ledger.claim(2, accounts[1], 500, proof);
        vm.assertEq(ledger.paid(), 500, "paid");
        vm.assertEq(ledger.unawarded(), BUDGET - 700, "not awarded");
    }

    function test_nothingIsClaimableBeforeTheDelayAndAllFromThenOn() public {
        ledger = deployLedger(1 hours);
        post(ledger, first);
        uint256 claimableAt = block.timestamp + 1 hours;
        bytes32[] memory proof = Tree.proof(accounts, first, 0);
        vm.warp(claimableAt - 1);
        vm.expectRevert(abi.encodeWithSelector(RewardLedger.NotClaimableYet.selector, claimableAt));
        ledger.claim(1, accounts[0], 100, proof);
        vm.warp(claimableAt);
        ledger.claim(1, accounts[0], 100, proof);
        vm.assertEq(token.balanceOf(accounts[0]), 100, "account");
    }

    function testFuzz_whateverTheOrderEveryoneEndsWithTheirCumulativeAmount(uint256 seed) public {
        uint256[][] memory roots = new uint256[][](6);
        roots[0] = first;
        for (uint64 round = 2; round <= 6; round++) {
            uint256[] memory last = roots[round - 2];
            roots[round - 1] = amountsOf(last[0] + seed % 7, last[1] + seed % 11, last[2] + 1 + seed % 13);
            post(ledger, roots[round - 1]);
        }
        for (uint256 i = 0; i < 30; i++) {
            seed = uint256(keccak256(abi.encode(seed)));
            (uint64 round, uint256 who) = (uint64(seed % 6) + 1, (seed >> 128) % 3);
            if (roots[round - 1][who] > ledger.claimed(accounts[who])) claim(ledger, round, roots[round - 1], who);
        }
        for (uint256 who = 0; who < 3; who++) {
            if (roots[5][who] > ledger.claimed(accounts[who])) claim(ledger, 6, roots[5], who);
            vm.assertEq(token.balanceOf(accounts[who]), roots[5][who], "balance");
        }
        vm.assertEq(ledger.paid(), roots[5][0] + roots[5][1] + roots[5][2], "paid");
        vm.assertEq(token.balanceOf(address(ledger)), ledger.DUST(), "only the dust is left");
    }

    function _unknown(uint64 round, address account, uint256 amount, bytes32[] memory proof) private {
        (bool done, bytes memory reason) =
            address(ledger).call(abi.encodeCall(ledger.claim, (round, account, amount, proof)));
        vm.assertTrue(!done && bytes4(reason) == RewardLedger.UnknownRecord.selector, "not refused as unknown");
    }
}
