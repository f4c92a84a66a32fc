// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Committee} from "../src/Committee.sol";
import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {RewardLedger} from "../src/RewardLedger.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

contract RegistryTest is Fixture {
    uint128 private constant STAKE = 1_000;
    uint128 private constant SLASH_CAP = 600;
    uint40 private constant UNBONDING = 7 days;
    address private constant ALICE = address(0xA11CE);
    address private constant BAD = address(0xBAD);

    RewardLedger private ledger;
    ParticipantRegistry private registry;

    function setUp() public {
        deployToken();
        ledger = deployLedger(0);
        _deploy(SLASH_CAP);
    }

    function test_aRegistryServesItsLedger() public view {
        vm.assertEq(address(registry.ledger()), address(ledger), "ledger");
        vm.assertEq(address(registry.token()), address(token), "token");
        vm.assertEq(registry.threshold(), THRESHOLD, "threshold");
        vm.assertEq(keccak256(abi.encode(registry.committee())), keccak256(abi.encode(members())), "committee");
        vm.assertEq(registry.stake(), STAKE, "stake");
        vm.assertEq(registry.slashCap(), SLASH_CAP, "slash cap");
        vm.assertEq(registry.unbonding(), UNBONDING, "unbonding");
    }

    function test_aRegistryWithoutAStakeIsRefused() public {
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.ZeroStake.selector));
        Deploy.registry(ledger, 0, 0, UNBONDING);
    }

    function test_aSlashCapAboveTheStakeIsRefused() public {
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.SlashCapAboveStake.selector, STAKE + 1, STAKE));
        Deploy.registry(ledger, STAKE, STAKE + 1, UNBONDING);
    }

    function test_whoeverPaysTheStakeBelongsToTheAccount() public {
        token.approve(address(registry), STAKE);
        vm.expectEmit(address(registry));
        emit ParticipantRegistry.Joined(ALICE, address(this), STAKE);
        registry.join(ALICE);
        vm.assertTrue(registry.isActive(ALICE), "active");
        vm.assertEq(token.balanceOf(address(registry)), STAKE, "registry");
        _leave();
        vm.warp(block.timestamp + UNBONDING);
        registry.withdraw(ALICE);
        vm.assertEq(token.balanceOf(ALICE), STAKE, "account");
    }

    function test_anAccountJoinsOnce() public {
        _join();
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.AlreadyStaked.selector, ALICE));
        registry.join(ALICE);
    }

    function test_onlyWhoStakedAndHasNotLeftCanLeave() public {
        vm.assertTrue(!registry.isActive(ALICE), "active before joining");
        _cannotLeave();
        _join();
        vm.expectEmit(address(registry));
        emit ParticipantRegistry.Left(ALICE, uint64(block.timestamp) + UNBONDING);
        _leave();
        vm.assertTrue(!registry.isActive(ALICE), "active after leaving");
        _cannotLeave();
    }

    function test_aStakeComesBackAfterTheUnbondingDelayAndNotBefore() public {
        _join();
        _cannotWithdraw(abi.encodeWithSelector(ParticipantRegistry.NotLeaving.selector, ALICE));
        _leave();
        uint256 withdrawableAt = block.timestamp + UNBONDING;
        vm.warp(withdrawableAt - 1);
        _cannotWithdraw(abi.encodeWithSelector(ParticipantRegistry.StillUnbonding.selector, withdrawableAt));
        vm.warp(withdrawableAt);
        vm.expectEmit(address(registry));
        emit ParticipantRegistry.Withdrawn(ALICE, STAKE);
        vm.prank(address(0xBAD));
        registry.withdraw(ALICE);
        vm.assertEq(token.balanceOf(ALICE), STAKE, "account");
        _cannotWithdraw(abi.encodeWithSelector(ParticipantRegistry.NotLeaving.selector, ALICE));
    }

    function test_whatIsSlashedFundsTheLedger() public {
        _join();
        bytes memory signed = _signed(200, 0);
        vm.expectEmit(address(registry));
        emit ParticipantRegistry.Slashed(ALICE, 0, 200, "evidence");
        registry.slash(ALICE, 200, "evidence", signed);
        vm.assertEq(ledger.funded(), BUDGET + ledger.DUST() + 200, "funded");
        vm.assertEq(token.balanceOf(address(registry)), STAKE - 200, "registry");
        (uint128 left,, uint64 nonce) = registry.members(ALICE);
        vm.assertEq(left, STAKE - 200, "stake");
        vm.assertEq(nonce, 1, "nonce");
    }

    function test_aStakeCanBeSlashedWhileItIsUnbonding() public {
        _join();
        _leave();
        vm.warp(block.timestamp + UNBONDING);
        _slash(200, 0);
        registry.withdraw(ALICE);
        vm.assertEq(token.balanceOf(ALICE), STAKE - 200, "account");
    }

    function test_aStakeIsSlashedUpToTheCapAndNoFurther() public {
        _join();
        _slash(SLASH_CAP - 1, 0);
        _refused(2, 1, abi.encodeWithSelector(ParticipantRegistry.SlashCapExceeded.selector, 2, 1));
        _refused(
            type(uint256).max,
            1,
            abi.encodeWithSelector(ParticipantRegistry.SlashCapExceeded.selector, type(uint256).max, 1)
        );
        _slash(1, 1);
        _refused(1, 2, abi.encodeWithSelector(ParticipantRegistry.SlashCapExceeded.selector, 1, 0));
    }

    function test_whoIsSlashedOfEverythingIsOutAndMayJoinAgain() public {
        _deploy(STAKE);
        _join();
        _leave();
        _slash(STAKE, 0);
        vm.warp(block.timestamp + UNBONDING);
        _cannotWithdraw(abi.encodeWithSelector(ParticipantRegistry.NotLeaving.selector, ALICE));
        _join();
        vm.assertTrue(registry.isActive(ALICE), "active");
    }

    function test_whoCopiesAJoinPaysTheStakeOfTheSameAccount() public {
        token.transfer(BAD, STAKE);
        vm.prank(BAD);
        token.approve(address(registry), STAKE);
        vm.prank(BAD);
        registry.join(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.AlreadyStaked.selector, ALICE));
        registry.join(ALICE);
        _leave();
        vm.warp(block.timestamp + UNBONDING);
        registry.withdraw(ALICE);
        vm.assertEq(token.balanceOf(ALICE), STAKE, "account");
        vm.assertEq(token.balanceOf(BAD), 0, "copier");
    }

    function test_whoCopiesALeaveLeavesForItselfAlone() public {
        _join();
        vm.prank(BAD);
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.NotActive.selector, BAD));
        registry.leave();
        vm.assertTrue(registry.isActive(ALICE), "active");
    }

    function test_whoSeesASlashComingCannotTakeItsStakeAwayFirst() public {
        _join();
        bytes memory signed = _signed(200, 0);
        _leave();
        vm.expectRevert(
            abi.encodeWithSelector(ParticipantRegistry.StillUnbonding.selector, block.timestamp + UNBONDING)
        );
        registry.withdraw(ALICE);
        registry.slash(ALICE, 200, "evidence", signed);
        vm.assertEq(ledger.funded(), BUDGET + ledger.DUST() + 200, "funded");
    }

    function test_aSlashAfterTheDelayComesTooLateIfTheStakeIsWithdrawnFirst() public {
        _join();
        bytes memory signed = _signed(200, 0);
        _leave();
        vm.warp(block.timestamp + UNBONDING);
        registry.withdraw(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.NotStaked.selector, ALICE));
        registry.slash(ALICE, 200, "evidence", signed);
        vm.assertEq(token.balanceOf(ALICE), STAKE, "account");
    }

    function test_nothingCannotBeSlashed() public {
        _join();
        _refused(0, 0, abi.encodeWithSelector(ParticipantRegistry.ZeroSlash.selector));
    }

    function test_whoHasNoStakeCannotBeSlashed() public {
        _refused(1, 0, abi.encodeWithSelector(ParticipantRegistry.NotStaked.selector, ALICE));
    }

    function test_aSlashNeedsTheCommittee() public {
        _join();
        bytes memory two = signatures(slashDigest(address(registry), ALICE, 200, "evidence", 0), 2);
        vm.expectRevert(abi.encodeWithSelector(Committee.TooFewSignatures.selector, 2, THRESHOLD));
        registry.slash(ALICE, 200, "evidence", two);
    }

    function test_aSlashWorksOnce() public {
        _join();
        bytes memory signed = _signed(200, 0);
        registry.slash(ALICE, 200, "evidence", signed);
        _forged(registry, 200, signed);
    }

    function test_aSlashWorksOnlyOnTheStakeItWasSignedFor() public {
        _join();
        bytes memory signed = _signed(200, 0);
        _leave();
        vm.warp(block.timestamp + UNBONDING);
        registry.withdraw(ALICE);
        _join();
        _forged(registry, 200, signed);
    }

    function test_aSlashWorksOnlyInItsRegistry() public {
        bytes memory signed = _signed(200, 0);
        _deploy(SLASH_CAP);
        _join();
        _forged(registry, 200, signed);
    }

    function _deploy(uint128 slashCap) private {
        registry = Deploy.registry(ledger, STAKE, slashCap, UNBONDING);
    }

    function _join() private {
        token.approve(address(registry), STAKE);
        registry.join(ALICE);
    }

    function _leave() private {
        vm.prank(ALICE);
        registry.leave();
    }

    function _signed(uint256 amount, uint64 nonce) private view returns (bytes memory) {
        return signatures(slashDigest(address(registry), ALICE, amount, "evidence", nonce));
    }

    function _slash(uint256 amount, uint64 nonce) private {
        registry.slash(ALICE, amount, "evidence", _signed(amount, nonce));
    }

    function _cannotLeave() private {
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.NotActive.selector, ALICE));
        vm.prank(ALICE);
        registry.leave();
    }

    function _cannotWithdraw(bytes memory reason) private {
        vm.expectRevert(reason);
        registry.withdraw(ALICE);
    }

    function _refused(uint256 amount, uint64 nonce, bytes memory reason) private {
        bytes memory signed = _signed(amount, nonce);
        vm.expectRevert(reason);
        registry.slash(ALICE, amount, "evidence", signed);
    }

    /// @dev Its signers are not who they would be.
    function _forged(ParticipantRegistry target, uint256 amount, bytes memory signed) private {
        assertForged(address(target), abi.encodeCall(target.slash, (ALICE, amount, "evidence", signed)));
    }
}
