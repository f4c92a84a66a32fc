// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardLedger} from "../../src/RewardLedger.sol";
import {vm} from "../Vm.sol";
import {LedgerHandler} from "./LedgerHandler.sol";
import {LedgerModel} from "./LedgerModel.sol";

/// @dev Money is conserved, whatever anyone does.
contract LedgerInvariants {
    LedgerHandler private handler;
    RewardLedger private ledger;

    function setUp() public {
        handler = new LedgerHandler();
        ledger = handler.ledger();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// @dev One invariant for all of them: Foundry would walk the same walks again for each.
    function invariant_moneyIsConserved() external view {
        vm.assertTrue(!handler.sweptTooMuch(), "the sponsor cannot take what is awarded");
        vm.assertTrue(!handler.signaturesReused(), "no signature works twice or elsewhere");
        _totals();
        _recipients();
        _claimed();
        vm.assertTrue(!handler.committeeBypassed(), "nothing is awarded without the committee or past the caps");
        _rounds();
        vm.assertEq(ledger.funded(), handler.fundedIn() - handler.sweptOut(), "the ledger knows what was funded");
        vm.assertEq(ledger.paid(), handler.paidOut(), "the ledger knows what was paid");
    }

    function _totals() private view {
        uint256 funded = handler.fundedIn() - handler.sweptOut();
        uint256 escrow = handler.balanceOf(address(ledger)) + handler.balanceOf(address(ledger.reserve()));
        vm.assertEq(
            escrow + handler.paidOut() + handler.balanceOf(handler.OUTSIDER()), funded, "escrow + paid = funded"
        );
        vm.assertLe(handler.paidOut(), ledger.awarded(), "paid <= awarded");
        vm.assertLe(ledger.awarded(), funded, "awarded <= funded");
    }

    function _claimed() private view {
        vm.assertTrue(!handler.claimedFell(), "claimed never falls");
        vm.assertTrue(!handler.unprovedClaimPaid(), "a claim needs a leaf of a claimable record");
        for (uint256 who = 0; who < 3; who++) {
            address account = handler.account(who);
            vm.assertLe(ledger.claimed(account), handler.highestLeaf(account), "claimed <= an authorised leaf");
            vm.assertEq(handler.balanceOf(account), ledger.claimed(account), "nobody is paid twice");
        }
    }

    function _rounds() private view {
        vm.assertTrue(!handler.wrongRoundsAccepted(), "no round is skipped, repeated or rewritten");
        uint64 next = 1;
        for (uint256 i = 0; i < handler.liveCount(); i++) {
            LedgerModel.Posted memory p = handler.liveAt(i);
            (uint64 lastRound, uint64 claimableAt, uint128 awardedBefore) =
                ledger.entries(p.record.firstRound, p.record.rewardsRoot);
            bytes32 stored = keccak256(abi.encode(lastRound, claimableAt, awardedBefore));
            bytes32 recorded = keccak256(abi.encode(p.record.lastRound, p.claimableAt, p.awardedBefore));
            vm.assertEq(stored, recorded, "an entry is what was recorded");
            next = lastRound + 1;
        }
        vm.assertEq(ledger.nextRound(), next, "the next round follows the last record");
    }

    function _recipients() private view {
        vm.assertEq(handler.balanceOf(handler.OUTSIDER()), 0, "nobody but the leaf's account is paid");
        vm.assertEq(handler.balanceOf(handler.SINK()), handler.sweptOut(), "the sponsor gets what it swept");
        uint256 known = handler.paidOut() + handler.balanceOf(address(handler)) + handler.balanceOf(handler.SINK())
            + handler.balanceOf(address(ledger)) + handler.balanceOf(address(ledger.reserve()));
        vm.assertEq(known, handler.supply(), "nobody but the leaf's account is paid");
    }

    /// @dev The random walks above are worth what they reach: one long walk reaches every outcome.
    function test_theHandlerReachesEveryOutcome() external {
        bytes4[12] memory actions = [
            handler.fund.selector,
            handler.warp.selector,
            handler.record.selector,
            handler.record.selector,
            handler.recordWrongRounds.selector,
            handler.recordPastTheRules.selector,
            handler.replay.selector,
            handler.replayFromElsewhere.selector,
            handler.claimMany.selector,
            handler.veto.selector,
            handler.claim.selector,
            handler.claimWithoutALeaf.selector
        ];
        for (uint256 i = 0; i < 1_500; i++) {
            uint256 seed = uint256(keccak256(abi.encode("walk", i)));
            bytes4 action = i % 50 == 49 ? handler.sweep.selector : actions[seed % actions.length];
            (bool done,) = address(handler).call(abi.encodeWithSelector(action, seed >> 8, seed >> 16, seed >> 24));
            vm.assertTrue(done, "an action failed");
        }
        string[19] memory outcomes = [
            "funded",
            "recorded",
            "recorded several rounds",
            "promised too much",
            "unfunded record refused",
            "wrong rounds refused",
            "broken rules refused",
            "replay refused",
            "replayed at its own round",
            "foreign signatures refused",
            "claimed",
            "claimed under an older root",
            "claimed many",
            "claim refused",
            "claim of what was not awarded refused",
            "claim without a leaf refused",
            "vetoed",
            "late veto refused",
            "swept"
        ];
        for (uint256 i = 0; i < outcomes.length; i++) {
            vm.assertTrue(handler.count(outcomes[i]) > 0, outcomes[i]);
        }
    }
}
