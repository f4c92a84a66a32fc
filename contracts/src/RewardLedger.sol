// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Committee} from "./Committee.sol";
import {Reserve} from "./Reserve.sol";
import {RewardsTree} from "./RewardsTree.sol";

/// @title The ledger of a federated training campaign: records of its rounds, and the rewards that they award
/// @notice A sponsor funds it, a committee records rounds, participants claim.
///
/// The tokens are in two places: the reserve holds what is not awarded, this contract what is awarded and not claimed.
/// A record moves what it adds to the total from the first to the second. So no claim, not even under a root whose
/// leaves add up to more than its total, can pay out a token that was not awarded, and no sweep can take one that was.
///
/// Tokens sent to the reserve without `fund` count as funding. Tokens sent to this contract are a gift to the
/// participants, and make `paid` too low. A token that takes a fee on transfers, or changes balances, must not be
/// used.
contract RewardLedger is Committee {
    using SafeERC20 for IERC20;

    /// @notice The fixed terms of a campaign; see the getters of the same names.
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
    /// @dev `total` is all that participants were awarded since round 1. `rewardsRoot` is that of OpenZeppelin's
    /// StandardMerkleTree over (account, cumulative amount). The other hashes are recorded, not interpreted.
    struct Record {
        uint64 firstRound;
        uint64 lastRound;
        bytes32 rewardsRoot;
        bytes32 contributionsRoot;
        bytes32 modelHash;
        bytes32 evidenceHash;
        uint256 total;
    }

    /// @notice All that an account has earned so far, and its proof under a root.
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

    /// @notice The one unit that the first funding awards to nobody. It keeps this contract's balance from returning to
    /// zero when all is claimed: writing to a zero balance would add 17,000 gas to the next record.
    uint128 public constant DUST = 1;

    /// @notice The token of all amounts.
    IERC20 public immutable token;
    /// @notice Who may sweep.
    address public immutable sponsor;
    /// @notice The campaign's id, which every signature names.
    bytes32 public immutable campaign;
    /// @notice The most that a record may award per round it covers.
    uint128 public immutable roundCap;
    /// @notice The most that all records together may award.
    uint128 public immutable lifetimeCap;
    /// @notice The last second in which the sponsor may not sweep.
    uint40 public immutable deadline;
    /// @notice The number of seconds after a record in which it can be vetoed, and cannot be claimed under.
    uint40 public immutable challengeDelay;
    /// @notice Holds the tokens that are not awarded.
    Reserve public immutable reserve;

    /// @notice The last record's total plus DUST.
    uint128 public awarded;
    /// @notice The first round of the next record.
    uint64 public nextRound = 1;
    /// @notice The number of vetoes. Every signature names it, so that a veto voids all earlier signatures.
    uint64 public epoch;

    /// @notice How much an account has claimed.
    mapping(address account => uint256) public claimed;

    /// @notice The record of a first round and a rewards root: all zero if there is none, or it was vetoed.
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
    event Vetoed(uint64 indexed firstRound, uint64 indexed lastRound, uint64 epoch, bytes32 evidenceHash);
    event Swept(address indexed to, uint256 amount);

    error ZeroSponsor();
    error DeadlinePassed(uint40 deadline);
    error NotTheNextRound(uint64 firstRound, uint64 nextRound);
    error EmptyRange(uint64 firstRound, uint64 lastRound);
    error LifetimeCapExceeded(uint256 total, uint128 lifetimeCap);
    error TotalShrinks(uint128 total, uint128 awarded);
    error RoundCapExceeded(uint256 added, uint256 cap);
    error UnknownRecord(uint64 firstRound, bytes32 rewardsRoot);
    error NotClaimableYet(uint64 claimableAt);
    error NothingDue(address account, uint256 claimed);
    error NoLongerQueued(uint64 firstRound, uint64 claimableAt);
    error VetoEndsEarly(uint64 round, uint64 nextRound);
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
        reserve = new Reserve(terms.token);
    }

    /// @notice Adds to what can be awarded. The caller pays, and must have approved it.
    function fund(uint256 amount) external {
        emit Funded(msg.sender, amount);
        token.safeTransferFrom(msg.sender, address(reserve), amount);
        if (awarded < DUST) _award(DUST);
    }

    /// @notice Records the next rounds and awards what they add to the total. Anyone may submit it.
    /// @dev The token refuses more than is funded.
    /// @param signatures See `_requireCommittee`; the members sign the record with the campaign and the epoch.
    function record(Record calldata r, bytes calldata signatures) external {
        if (r.firstRound != nextRound) revert NotTheNextRound(r.firstRound, nextRound);
        if (r.lastRound < r.firstRound) revert EmptyRange(r.firstRound, r.lastRound);
        uint128 before = awarded;
        uint128 total = _cappedTotal(r, before);
        uint64 epoch_ = epoch;
        // The record's fields follow each other in the signed type as they do in the struct.
        _requireCommittee(keccak256(abi.encode(RECORD_TYPEHASH, campaign, epoch_, r)), signatures);

        uint64 claimableAt = uint64(block.timestamp) + challengeDelay;
        entries[r.firstRound][r.rewardsRoot] = Entry(r.lastRound, claimableAt, before);
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
        _award(total);
    }

    /// @notice Pays an account what it has earned and not claimed. Anyone may submit it; only the account is paid.
    /// @dev The only event is the token's Transfer.
    /// @param firstRound Of the record to claim under: any that is claimable.
    function claim(uint64 firstRound, address account, uint256 cumulative, bytes32[] calldata proof) external {
        if (!_pay(firstRound, account, cumulative, proof)) revert NothingDue(account, claimed[account]);
    }

    /// @notice Pays many accounts under one record. Those with nothing due are skipped.
    function claimMany(uint64 firstRound, Claim[] calldata claims) external {
        for (uint256 i = 0; i < claims.length; i++) {
            _pay(firstRound, claims[i].account, claims[i].cumulative, claims[i].proof);
        }
    }

    /// @notice Drops a record that is not claimable yet and all after it, for good. Anyone may submit it.
    /// @param rewardsRoots Of the record that begins with `firstRound`, and of each one after it.
    /// @param signatures See `_requireCommittee`; the members sign `firstRound` and `evidenceHash` with the campaign
    /// and the epoch.
    function veto(uint64 firstRound, bytes32[] calldata rewardsRoots, bytes32 evidenceHash, bytes calldata signatures)
        external
    {
        uint64 epoch_ = epoch;
        _requireCommittee(keccak256(abi.encode(VETO_TYPEHASH, campaign, epoch_, firstRound, evidenceHash)), signatures);
        emit Vetoed(firstRound, nextRound - 1, epoch_, evidenceHash);
        uint128 before = _drop(firstRound, rewardsRoots);
        nextRound = firstRound;
        epoch = epoch_ + 1;

        // An earlier root that adds up to more than its total may have paid out a part of what was queued behind it.
        // That part stays awarded; a veto must not fail for it.
        uint256 back = Math.min(awarded - before, token.balanceOf(address(this)));
        awarded -= uint128(back);
        token.safeTransfer(address(reserve), back);
    }

    /// @notice Gives the sponsor what is not awarded, after the deadline.
    function sweep(address to) external {
        if (msg.sender != sponsor) revert NotTheSponsor(msg.sender);
        if (block.timestamp <= deadline) revert BeforeDeadline(deadline);
        uint256 amount = unawarded();
        emit Swept(to, amount);
        reserve.release(to, amount);
    }

    /// @notice What can still be awarded.
    function unawarded() public view returns (uint256) {
        return token.balanceOf(address(reserve));
    }

    /// @notice All that was funded, less what was swept.
    function funded() external view returns (uint256) {
        return awarded + unawarded();
    }

    /// @notice All that was claimed.
    function paid() external view returns (uint256) {
        return Math.saturatingSub(awarded, token.balanceOf(address(this)));
    }

    /// @dev What `awarded` becomes with a record; reverts if its total shrinks or exceeds a cap.
    function _cappedTotal(Record calldata r, uint128 before) private view returns (uint128 total) {
        if (r.total > lifetimeCap) revert LifetimeCapExceeded(r.total, lifetimeCap);
        total = uint128(r.total) + DUST;
        if (total < before) revert TotalShrinks(total, before);
        uint256 cap = uint256(roundCap) * (uint256(r.lastRound) - r.firstRound + 1);
        if (total - before > cap) revert RoundCapExceeded(total - before, cap);
    }

    /// @dev Raises `awarded`, and moves the tokens from the reserve to here.
    function _award(uint128 total) private {
        uint128 added = total - awarded;
        awarded = total;
        if (added > 0) reserve.release(address(this), added);
    }

    /// @dev Whether there was anything to pay. Reverts unless the claim is proved under a claimable record.
    function _pay(uint64 firstRound, address account, uint256 cumulative, bytes32[] calldata proof)
        private
        returns (bool)
    {
        bytes32 root = RewardsTree.root(account, cumulative, proof);
        uint64 claimableAt = entries[firstRound][root].claimableAt;
        if (claimableAt == 0) revert UnknownRecord(firstRound, root);
        if (block.timestamp < claimableAt) revert NotClaimableYet(claimableAt);
        uint256 before = claimed[account];
        if (cumulative <= before) return false;
        claimed[account] = cumulative;
        token.safeTransfer(account, cumulative - before);
        return true;
    }

    /// @dev Deletes the records from `firstRound` to the newest. Returns what was awarded before them.
    function _drop(uint64 firstRound, bytes32[] calldata rewardsRoots) private returns (uint128 before) {
        if (rewardsRoots.length == 0) revert VetoEndsEarly(firstRound, nextRound);
        before = entries[firstRound][rewardsRoots[0]].awardedBefore;
        uint64 round = firstRound;
        for (uint256 i = 0; i < rewardsRoots.length; i++) {
            Entry memory entry = entries[round][rewardsRoots[i]];
            if (entry.claimableAt == 0) revert UnknownRecord(round, rewardsRoots[i]);
            if (block.timestamp >= entry.claimableAt) revert NoLongerQueued(round, entry.claimableAt);
            delete entries[round][rewardsRoots[i]];
            round = entry.lastRound + 1;
        }
        if (round != nextRound) revert VetoEndsEarly(round, nextRound);
    }
}
