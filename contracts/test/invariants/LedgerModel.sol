// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardLedger} from "../../src/RewardLedger.sol";
import {Fixture} from "../Fixture.sol";

/// @dev What should be true of a ledger, kept by plain bookkeeping beside it, and what went wrong if anything did.
abstract contract LedgerModel is Fixture {
    struct Posted {
        RewardLedger.Record record;
        uint256[] amounts;
        bytes signatures;
        uint64 claimableAt;
        uint128 awardedBefore;
        bool vetoed;
    }

    address public constant SPONSOR = address(0x5905);
    address public constant SINK = address(0x51);
    address public constant OUTSIDER = address(0xBAD);
    uint40 public constant DELAY = 1 hours;

    RewardLedger public ledger;

    Posted[] internal posted;
    /// @dev Indices into `posted` of the records that were not vetoed, oldest first.
    uint256[] internal live;

    /// @notice Tokens that went in by `fund`, and out by `sweep`.
    uint256 public fundedIn;
    uint256 public sweptOut;
    /// @notice By account: the highest leaf that was ever claimable, and what was claimed after the last action.
    mapping(address account => uint256) public highestLeaf;
    mapping(address account => uint256) public lastClaimed;
    /// @notice How often an action got through, or was refused as it should be.
    mapping(string what => uint256) public count;

    /// @notice What must never happen: nobody undoes these once they are true.
    bool public claimedFell;
    bool public unprovedClaimPaid;
    bool public wrongRoundsAccepted;
    bool public signaturesReused;
    bool public committeeBypassed;
    bool public sweptTooMuch;

    function postedCount() external view returns (uint256) {
        return posted.length;
    }

    function postedAt(uint256 index) external view returns (Posted memory) {
        return posted[index];
    }

    function liveCount() external view returns (uint256) {
        return live.length;
    }

    function liveAt(uint256 index) external view returns (Posted memory) {
        return posted[live[index]];
    }

    function account(uint256 who) external view returns (address) {
        return accounts[who];
    }

    /// @dev What participants hold is what they were paid: they start with nothing and spend nothing.
    function paidOut() public view returns (uint256 sum) {
        for (uint256 i = 0; i < accounts.length; i++) {
            sum += token.balanceOf(accounts[i]);
        }
    }

    function balanceOf(address who) external view returns (uint256) {
        return token.balanceOf(who);
    }

    function supply() external view returns (uint256) {
        return token.totalSupply();
    }

    /// @dev Whether a claim under this first round and root is due to be paid.
    function _claimable(Posted memory p) internal view returns (bool) {
        for (uint256 i = 0; i < live.length; i++) {
            Posted storage other = posted[live[i]];
            if (other.record.firstRound == p.record.firstRound && other.record.rewardsRoot == p.record.rewardsRoot) {
                return block.timestamp >= other.claimableAt;
            }
        }
        return false;
    }

    function _remember(RewardLedger.Record memory r, uint256[] memory amounts, bytes memory signed, uint128 before)
        internal
    {
        live.push(posted.length);
        posted.push(Posted(r, amounts, signed, uint64(block.timestamp) + DELAY, before, false));
    }

    /// @dev Marks the live records from this one on as vetoed. Returns their roots.
    function _forget(uint256 firstLive) internal returns (bytes32[] memory roots) {
        roots = new bytes32[](live.length - firstLive);
        for (uint256 i = roots.length; i > 0; i--) {
            Posted storage p = posted[live[live.length - 1]];
            p.vetoed = true;
            roots[i - 1] = p.record.rewardsRoot;
            live.pop();
        }
    }

    /// @dev The amounts of the newest live record.
    function _lastAmounts() internal view returns (uint256[] memory) {
        return live.length == 0 ? amountsOf(0, 0, 0) : posted[live[live.length - 1]].amounts;
    }

    /// @dev After every action: what has become claimable, and whether anyone's claimed amount fell.
    modifier watched() {
        _;
        for (uint256 who = 0; who < accounts.length; who++) {
            uint256 claimed = ledger.claimed(accounts[who]);
            if (claimed < lastClaimed[accounts[who]]) claimedFell = true;
            lastClaimed[accounts[who]] = claimed;
            for (uint256 i = 0; i < live.length; i++) {
                Posted storage p = posted[live[i]];
                if (block.timestamp >= p.claimableAt && p.amounts[who] > highestLeaf[accounts[who]]) {
                    highestLeaf[accounts[who]] = p.amounts[who];
                }
            }
        }
    }
}
