// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {Committee} from "./Committee.sol";
import {Reserve} from "./Reserve.sol";

/// @title The ledger of a federated training campaign: what each round contributed, and who is owed what
/// @notice A sponsor funds it, a committee records rounds, participants claim.
///
/// The tokens lie in two pockets. The `reserve` holds what is not awarded; this contract holds what is awarded and not
/// claimed. A record moves its total's increase from the first to the second. So no claim, not even under a root whose
/// leaves add up to more than its total, can ever pay out a token that was not awarded, and no sweep can take one that was.
///
/// Whoever sends tokens to the reserve without `fund` funds it all the same; whoever sends tokens to this contract gives
/// them to the participants, outside the accounts. A token that takes a fee on transfer must not be used.
contract RewardLedger is Committee {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Terms {
        IERC20 token;
        address sponsor;
        bytes32 campaign;
        address[] committee;
        uint8 threshold;
        uint128 roundCap;
        uint128 lifetimeCap;
        uint40 deadline;
        uint40 challengeDelay;
    }

    /// @notice What the committee signs for the rounds from `firstRound` to `lastRound`.
    /// @dev `total` is all that was awarded since round 1. `rewardsRoot` is that of OpenZeppelin's StandardMerkleTree
    /// over (account, cumulative amount). The other three hashes are written down and not interpreted.
    struct Record {
        uint64 firstRound;
        uint64 lastRound;
        bytes32 rewardsRoot;
        bytes32 contributionsRoot;
        bytes32 modelHash;
        bytes32 evidenceHash;
        uint256 total;
    }

    /// @notice One account's claim under a root: all that it has earned so far, and the proof of it.
    struct Claim {
        address account;
        uint256 cumulative;
        bytes32[] proof;
    }

    /// @dev What is stored of a record: one slot.
    struct Entry {
        uint64 lastRound;
        uint64 claimableAt;
        uint128 awardedBefore;
    }

    bytes32 private constant RECORD_TYPEHASH = keccak256(
        "Record(bytes32 campaign,uint64 epoch,uint64 firstRound,uint64 lastRound,bytes32 rewardsRoot,"
        "bytes32 contributionsRoot,bytes32 modelHash,bytes32 evidenceHash,uint256 total)"
    );
    bytes32 private constant VETO_TYPEHASH =
        keccak256("Veto(bytes32 campaign,uint64 epoch,uint64 firstRound,bytes32 evidenceHash)");

    IERC20 public immutable token;
    address public immutable sponsor;
    bytes32 public immutable campaign;
    /// @notice The most that may be awarded per round of a record.
    uint128 public immutable roundCap;
    /// @notice The most that may ever be awarded.
    uint128 public immutable lifetimeCap;
    /// @notice The last second in which the sponsor may not sweep.
    uint40 public immutable deadline;
    /// @notice For how many seconds after a record the committee may veto it and nobody can claim under it.
    uint40 public immutable challengeDelay;
    /// @notice The account that holds the tokens that are not awarded.
    address public immutable reserve;

    /// @notice The total of the last record: all that was ever awarded.
    uint128 public awarded;
    /// @notice The round with which the next record must begin.
    uint64 public nextRound = 1;
    /// @notice The number of vetoes so far. Every signature names it, so a veto voids all signatures from before.
    uint64 public epoch;

    /// @notice How much an account has claimed so far.
    mapping(address account => uint256) public claimed;

    /// @notice The record of a first round and a rewards root; all zero if there is none, or it was vetoed.
    mapping(uint64 firstRound => mapping(bytes32 rewardsRoot => Entry)) public entries;

    event Funded(address indexed from, uint256 amount);
    event Recorded(
        uint64 indexed firstRound,
        uint64 indexed lastRound,
        uint64 epoch,
        uint64 claimableAt,
        bytes32 rewardsRoot,
        bytes32 contributionsRoot,
        bytes32 modelHash,
        bytes32 evidenceHash,
        uint256 total
    );
    event Vetoed(uint64 indexed firstRound, uint64 indexed lastRound, uint64 epoch, bytes32 evidenceHash, uint256 total);
    event Swept(address indexed to, uint256 amount);

    error ZeroSponsor();
    error DeadlinePassed(uint40 deadline);
    error NotTheNextRound(uint64 firstRound, uint64 nextRound);
    error EmptyRange(uint64 firstRound, uint64 lastRound);
    error TotalShrinks(uint256 total, uint256 awarded);
    error RoundCapExceeded(uint256 added, uint256 cap);
    error LifetimeCapExceeded(uint256 total, uint128 cap);
    error NotFunded(uint256 added, uint256 unawarded);
    error UnknownRecord(uint64 firstRound, bytes32 rewardsRoot);
    error NotClaimableYet(uint64 claimableAt);
    error NothingDue(address account, uint256 claimed);
    error NoLongerQueued(uint64 firstRound, uint64 claimableAt);
    error VetoIncomplete(uint64 round, uint64 nextRound);
    error NotTheSponsor(address caller);
    error BeforeDeadline(uint40 deadline);

    constructor(Terms memory terms) Committee("fedmeta RewardLedger", terms.committee, terms.threshold) {
        if (terms.sponsor == address(0)) revert ZeroSponsor();
        if (terms.deadline <= block.timestamp) revert DeadlinePassed(terms.deadline);
        token = terms.token;
        sponsor = terms.sponsor;
        campaign = terms.campaign;
        roundCap = terms.roundCap;
        lifetimeCap = terms.lifetimeCap;
        deadline = terms.deadline;
        challengeDelay = terms.challengeDelay;
        reserve = address(new Reserve(terms.token));
    }

    /// @notice Adds to what may be awarded. Anyone may; the caller pays and must have approved it.
    function fund(uint256 amount) external {
        emit Funded(msg.sender, amount);
        token.safeTransferFrom(msg.sender, reserve, amount);
    }

    /// @notice Writes down the next rounds and awards what they add to the total. Anyone may submit it.
    /// @param signatures See Committee; at least `threshold` members sign the record together with the epoch.
    function record(Record calldata r, bytes calldata signatures) external {
        if (r.firstRound != nextRound) revert NotTheNextRound(r.firstRound, nextRound);
        if (r.lastRound < r.firstRound) revert EmptyRange(r.firstRound, r.lastRound);
        uint128 before = awarded;
        uint256 added = _requireWithinCaps(r, before);
        uint64 epoch_ = epoch;
        _requireCommittee(_recordHash(r, epoch_), signatures);

        uint64 claimableAt = uint64(block.timestamp) + challengeDelay;
        entries[r.firstRound][r.rewardsRoot] = Entry(r.lastRound, claimableAt, before);
        awarded = uint128(r.total);
        nextRound = r.lastRound + 1;
        emit Recorded(
            r.firstRound,
            r.lastRound,
            epoch_,
            claimableAt,
            r.rewardsRoot,
            r.contributionsRoot,
            r.modelHash,
            r.evidenceHash,
            r.total
        );
        if (added > 0) token.safeTransferFrom(reserve, address(this), added);
    }

    /// @notice Pays an account what it has earned and not claimed. Anyone may submit it; only the account is paid.
    /// @dev The token's own Transfer event from this contract is the log of it.
    /// @param firstRound The record to claim under: the newest, or any earlier one that is claimable.
    function claim(uint64 firstRound, address account, uint256 cumulative, bytes32[] calldata proof) external {
        uint256 due = _due(firstRound, account, cumulative, proof);
        if (due == 0) revert NothingDue(account, claimed[account]);
        claimed[account] = cumulative;
        token.safeTransfer(account, due);
    }

    /// @notice Pays many accounts in one transaction, all under one record. Those with nothing due are left out.
    function claimMany(uint64 firstRound, Claim[] calldata claims) external {
        for (uint256 i = 0; i < claims.length; i++) {
            Claim calldata c = claims[i];
            uint256 due = _due(firstRound, c.account, c.cumulative, c.proof);
            if (due == 0) continue;
            claimed[c.account] = c.cumulative;
            token.safeTransfer(c.account, due);
        }
    }

    /// @notice Drops a record that is not claimable yet and all after it, for good. Anyone may submit it.
    /// @param rewardsRoots The root of the record that begins with `firstRound`, and of each one after it.
    function veto(
        uint64 firstRound,
        bytes32[] calldata rewardsRoots,
        bytes32 evidenceHash,
        bytes calldata signatures
    ) external {
        uint64 epoch_ = epoch;
        _requireCommittee(keccak256(abi.encode(VETO_TYPEHASH, campaign, epoch_, firstRound, evidenceHash)), signatures);
        uint128 before = _drop(firstRound, rewardsRoots);

        // A root that added up to more than its total, and was not vetoed in time, may have paid out a part of this:
        // then less can be taken back, and it stays on the books as awarded.
        uint256 back = Math.min(awarded - before, token.balanceOf(address(this)));
        uint128 total = awarded - uint128(back);
        emit Vetoed(firstRound, nextRound - 1, epoch_, evidenceHash, total);
        awarded = total;
        nextRound = firstRound;
        epoch = epoch_ + 1;
        token.safeTransfer(reserve, back);
    }

    /// @notice Gives the sponsor what is not awarded, after the deadline. Records that find nothing left are refused.
    function sweep(address to) external {
        if (msg.sender != sponsor) revert NotTheSponsor(msg.sender);
        if (block.timestamp <= deadline) revert BeforeDeadline(deadline);
        uint256 amount = unawarded();
        emit Swept(to, amount);
        token.safeTransferFrom(reserve, to, amount);
    }

    /// @notice What may still be awarded.
    function unawarded() public view returns (uint256) {
        return token.balanceOf(reserve);
    }

    /// @notice All that was ever funded, less what was swept.
    function funded() external view returns (uint256) {
        return awarded + unawarded();
    }

    /// @notice All that was ever claimed.
    function paid() external view returns (uint256) {
        return Math.saturatingSub(awarded, token.balanceOf(address(this)));
    }

    /// @dev The increase of the total; reverts if it shrinks, exceeds a cap, or is not funded.
    function _requireWithinCaps(Record calldata r, uint128 before) private view returns (uint256 added) {
        if (r.total < before) revert TotalShrinks(r.total, before);
        if (r.total > lifetimeCap) revert LifetimeCapExceeded(r.total, lifetimeCap);
        added = r.total - before;
        uint256 cap = uint256(roundCap) * (uint256(r.lastRound) - r.firstRound + 1);
        if (added > cap) revert RoundCapExceeded(added, cap);
    }

    function _recordHash(Record calldata r, uint64 epoch_) private view returns (bytes32) {
        // The fields of `r` follow each other in the struct as they do in the signed type.
        return keccak256(abi.encode(RECORD_TYPEHASH, campaign, epoch_, r));
    }

    /// @dev What a claim has to pay; reverts unless the leaf is in a claimable record.
    function _due(uint64 firstRound, address account, uint256 cumulative, bytes32[] calldata proof)
        private
        view
        returns (uint256)
    {
        // Hashed twice, so that a leaf can never be an inner node.
        bytes32 leaf = keccak256(abi.encode(keccak256(abi.encode(account, cumulative))));
        bytes32 root = _root(leaf, proof);
        uint64 claimableAt = entries[firstRound][root].claimableAt;
        if (claimableAt == 0) revert UnknownRecord(firstRound, root);
        if (block.timestamp < claimableAt) revert NotClaimableYet(claimableAt);
        return Math.saturatingSub(cumulative, claimed[account]);
    }

    /// @dev Deletes the records from `firstRound` to the newest. Returns what was awarded before them.
    function _drop(uint64 firstRound, bytes32[] calldata rewardsRoots) private returns (uint128 before) {
        uint64 round = firstRound;
        for (uint256 i = 0; i < rewardsRoots.length; i++) {
            Entry memory entry = entries[round][rewardsRoots[i]];
            if (entry.claimableAt == 0) revert UnknownRecord(round, rewardsRoots[i]);
            if (block.timestamp >= entry.claimableAt) revert NoLongerQueued(round, entry.claimableAt);
            if (i == 0) before = entry.awardedBefore;
            delete entries[round][rewardsRoots[i]];
            round = entry.lastRound + 1;
        }
        if (round != nextRound || rewardsRoots.length == 0) revert VetoIncomplete(round, nextRound);
    }

    function _root(bytes32 leaf, bytes32[] calldata proof) private pure returns (bytes32 node) {
        node = leaf;
        assembly ("memory-safe") {
            let end := add(proof.offset, shl(5, proof.length))
            for { let at := proof.offset } lt(at, end) { at := add(at, 0x20) } {
                let slot := shl(5, gt(node, calldataload(at)))
                mstore(slot, node)
                mstore(xor(slot, 0x20), calldataload(at))
                node := keccak256(0x00, 0x40)
            }
        }
    }
}
