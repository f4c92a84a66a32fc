// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {RewardLedger} from "../../src/RewardLedger.sol";
import {Deploy} from "../Deploy.sol";
import {Tree} from "../Tree.sol";
import {vm} from "../Vm.sol";
import {LedgerModel} from "./LedgerModel.sol";

/// @dev What anyone might do to a ledger, in any order: the committee, the sponsor, participants, and an attacker who
/// has all the signatures that were ever made. An action that must succeed reverts if it does not.
contract LedgerHandler is LedgerModel {
    constructor() {
        deployToken();
        RewardLedger.Terms memory t = terms(DELAY);
        t.sponsor = SPONSOR;
        t.deadline = uint40(block.timestamp) + 3 days;
        ledger = Deploy.ledger(t);
    }

    function fund(uint256 amount) external watched {
        _fund(1 + amount % 5_000);
        count["funded"]++;
    }

    function warp(uint256 time) external watched {
        vm.warp(block.timestamp + (time % 8 == 0 ? time % 3 days : time % 2 hours));
    }

    /// @dev Honest, or with leaves that promise more than the total; of one round or several.
    function record(uint256 seed) external watched {
        (RewardLedger.Record memory r, uint256[] memory amounts) = _nextRecord(seed);
        bytes memory signed = signatures(recordDigest(ledger, r), THRESHOLD + seed % 3);
        uint128 before = ledger.awarded();
        if (r.total + ledger.DUST() - before > ledger.unawarded()) {
            (bool done,) = address(ledger).call(abi.encodeCall(ledger.record, (r, signed)));
            if (done) committeeBypassed = true;
            count["unfunded record refused"]++;
            return;
        }
        ledger.record(r, signed);
        _remember(r, amounts, signed, before);
        count[r.total < amounts[0] + amounts[1] + amounts[2] ? "promised too much" : "recorded"]++;
        if (r.lastRound > r.firstRound) count["recorded several rounds"]++;
    }

    /// @dev The committee signs for a round that is not the next one.
    function recordWrongRounds(uint256 seed) external watched {
        (RewardLedger.Record memory r,) = _nextRecord(seed);
        uint64 next = r.firstRound;
        r.firstRound = uint64(seed % (2 * next));
        if (r.firstRound == next) r.lastRound = next - 1;
        if (_accepted(r, signatures(recordDigest(ledger, r)))) wrongRoundsAccepted = true;
        count["wrong rounds refused"]++;
    }

    /// @dev Too few members sign, one of them signs thrice, or all sign for more than a cap or less than was awarded;
    /// nothing else is wrong with it.
    function recordPastTheRules(uint256 seed) external watched {
        (RewardLedger.Record memory r,) = _nextRecord(seed);
        uint256 kind = seed % 5;
        if (kind == 0) r.total = uint256(ledger.awarded()) + ROUND_CAP * (r.lastRound - r.firstRound + 1);
        if (kind == 1) (r.total, r.lastRound) = (uint256(LIFETIME_CAP) + 1, r.firstRound + 100);
        if (kind == 2 && ledger.awarded() < 2) return;
        if (kind == 2) r.total = (seed >> 8) % (ledger.awarded() - 1);
        if (r.total > ledger.awarded() + ledger.unawarded()) _fund(r.total);
        bytes32 hash = recordDigest(ledger, r);
        bytes memory signed = signatures(hash);
        if (kind == 3) signed = signatures(hash, THRESHOLD - 1);
        if (kind == 4) signed = bytes.concat(signatures(hash, 1), signatures(hash, 1), signatures(hash, 1));
        if (_accepted(r, signed)) committeeBypassed = true;
        count["broken rules refused"]++;
    }

    /// @dev The signatures of a record or a veto once more; vetoed records are the ones whose round may be due again.
    function replay(uint256 seed) external watched {
        if (posted.length == 0) return;
        Posted memory p = posted[seed % posted.length];
        if (p.record.firstRound == ledger.nextRound()) count["replayed at its own round"]++;
        if (_accepted(p.record, p.signatures)) signaturesReused = true;
        count["replay refused"]++;
    }

    /// @dev The next record, signed for this ledger on another chain, for another ledger, or for another campaign.
    function replayFromElsewhere(uint256 seed) external watched {
        (RewardLedger.Record memory r,) = _nextRecord(seed);
        r.total = ledger.awarded() == 0 ? 0 : ledger.awarded() - ledger.DUST();
        bytes32 here = ledgerDomain(ledger);
        bytes memory signed = signatures(recordDigest(ledger, r));
        uint256 home = block.chainid;
        if (seed % 3 == 0) vm.chainId(home + 1);
        if (seed % 3 == 1) {
            bytes32 there = domain("fedmeta RewardLedger", home, OUTSIDER);
            signed = signatures(recordDigest(there, CAMPAIGN, ledger.epoch(), r));
        }
        if (seed % 3 == 2) signed = signatures(recordDigest(here, "another", ledger.epoch(), r));
        if (_accepted(r, signed)) signaturesReused = true;
        vm.chainId(home);
        count["foreign signatures refused"]++;
    }

    function claim(uint256 which, uint256 who) external watched {
        if (posted.length == 0) return;
        Posted memory p = _pick(which);
        who %= accounts.length;
        (address account, uint256 amount) = (accounts[who], p.amounts[who]);
        uint256 before = ledger.claimed(account);
        uint256 due = amount > before ? amount - before : 0;
        bool expected = _claimable(p) && due > 0 && due <= token.balanceOf(address(ledger));
        bool done = _claim(p, account, amount, Tree.proof(accounts, p.amounts, who));
        if (done && !expected) unprovedClaimPaid = true;
        require(done || !expected, "a claim that is due was refused");
        if (!done) count["claim refused"]++;
        if (done) count[p.record.lastRound + 1 < ledger.nextRound() ? "claimed under an older root" : "claimed"]++;
        if (_claimable(p) && due > token.balanceOf(address(ledger))) count["claim of what was not awarded refused"]++;
    }

    /// @dev A participant's proof in an outsider's name, or for another amount.
    function claimWithoutALeaf(uint256 which, uint256 who, uint256 more) external watched {
        if (posted.length == 0) return;
        Posted memory p = _pick(which);
        who %= accounts.length;
        bytes32[] memory proof = Tree.proof(accounts, p.amounts, who);
        bool done = more % 2 == 0
            ? _claim(p, OUTSIDER, p.amounts[who], proof)
            : _claim(p, accounts[who], p.amounts[who] + 1 + more % 100, proof);
        if (done) unprovedClaimPaid = true;
        count["claim without a leaf refused"]++;
    }

    function claimMany(uint256 which) external watched {
        if (posted.length == 0) return;
        Posted memory p = _pick(which);
        RewardLedger.Claim[] memory claims = new RewardLedger.Claim[](accounts.length);
        uint256 due = 0;
        for (uint256 i = 0; i < claims.length; i++) {
            claims[i] = RewardLedger.Claim(accounts[i], p.amounts[i], Tree.proof(accounts, p.amounts, i));
            uint256 before = ledger.claimed(accounts[i]);
            if (p.amounts[i] > before) due += p.amounts[i] - before;
        }
        bool expected = _claimable(p) && due <= token.balanceOf(address(ledger));
        vm.prank(OUTSIDER);
        (bool done,) = address(ledger).call(abi.encodeCall(ledger.claimMany, (p.record.firstRound, claims)));
        if (done && !expected) unprovedClaimPaid = true;
        require(done || !expected, "a batch that is due was refused");
        if (done && due > 0) count["claimed many"]++;
    }

    function veto(uint256 which) external watched {
        if (live.length == 0) return;
        which = live.length - 1 - which % (live.length < 4 ? live.length : 4);
        Posted memory p = posted[live[which]];
        bytes memory signed = signatures(vetoDigest(ledger, p.record.firstRound, "evidence"));
        bool expected = block.timestamp < p.claimableAt;
        bytes32[] memory roots = new bytes32[](live.length - which);
        for (uint256 i = 0; i < roots.length; i++) {
            roots[i] = posted[live[which + i]].record.rewardsRoot;
        }
        bytes memory call_ = abi.encodeCall(ledger.veto, (p.record.firstRound, roots, "evidence", signed));
        (bool done,) = address(ledger).call(call_);
        if (done != expected) wrongRoundsAccepted = true;
        if (!done) {
            count["late veto refused"]++;
            return;
        }
        _forget(which);
        count[roots.length > 1 ? "vetoed several" : "vetoed"]++;
        (done,) = address(ledger).call(call_);
        if (done) signaturesReused = true;
    }

    function sweep(uint256 seed) external watched {
        bool expected = seed % 2 == 0 && block.timestamp > ledger.deadline();
        uint256 unawarded = ledger.unawarded();
        uint256 owed = token.balanceOf(address(ledger));
        vm.prank(seed % 2 == 0 ? SPONSOR : OUTSIDER);
        (bool done,) = address(ledger).call(abi.encodeCall(ledger.sweep, (SINK)));
        require(done || !expected, "the sponsor was refused");
        if ((done && !expected) || token.balanceOf(address(ledger)) != owed) sweptTooMuch = true;
        if (done) sweptOut += unawarded;
        count[done ? "swept" : "sweep refused"]++;
    }

    function _fund(uint256 amount) private {
        fund(ledger, amount);
        fundedIn += amount;
    }

    function _nextRecord(uint256 seed) private view returns (RewardLedger.Record memory r, uint256[] memory amounts) {
        uint64 rounds = 1 + uint64(seed >> 16) % 3;
        uint256[] memory last = _lastAmounts();
        amounts = amountsOf(
            last[0] + (seed >> 32) % 300, last[1] + (seed >> 64) % 300 * rounds, last[2] + (seed >> 96) % 300
        );
        r = recordOf(ledger, amounts);
        r.lastRound += rounds - 1;
        uint256 floor = ledger.awarded() == 0 ? 0 : ledger.awarded() - ledger.DUST();
        uint256 added = r.total - (last[0] + last[1] + last[2]);
        r.total = floor + (seed % 4 == 0 ? added / 3 : added);
    }

    /// @dev Any record there ever was, or one of the newest that still stand.
    function _pick(uint256 seed) private view returns (Posted memory) {
        if (seed % 2 == 0 || live.length == 0) return posted[(seed >> 1) % posted.length];
        return posted[live[live.length - 1 - (seed >> 1) % (live.length < 3 ? live.length : 3)]];
    }

    function _accepted(RewardLedger.Record memory r, bytes memory signed) private returns (bool done) {
        (done,) = address(ledger).call(abi.encodeCall(ledger.record, (r, signed)));
    }

    /// @dev By an outsider: whoever submits a claim gets nothing for it.
    function _claim(Posted memory p, address account, uint256 amount, bytes32[] memory proof)
        private
        returns (bool done)
    {
        vm.prank(OUTSIDER);
        (done,) = address(ledger).call(abi.encodeCall(ledger.claim, (p.record.firstRound, account, amount, proof)));
    }
}
