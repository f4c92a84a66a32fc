// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {Committee} from "./Committee.sol";
import {RewardLedger} from "./RewardLedger.sol";

/// @title The participants of a campaign and their stakes
/// @notice A participant joins with a stake in the ledger's token. It is returned some time after leaving, less what
/// the committee slashed for misbehaviour. Slashed tokens fund the ledger's escrow.
contract ParticipantRegistry is Committee {
    using SafeERC20 for IERC20;

    /// @dev One slot. `nonce` counts slashes and withdrawals and outlives the stake: a signed slash works once, and
    /// only on the stake it was signed for.
    struct Member {
        uint128 stake;
        uint64 withdrawableAt;
        uint64 nonce;
    }

    bytes32 private constant SLASH_TYPEHASH =
        keccak256("Slash(address account,uint256 amount,bytes32 evidenceHash,uint64 nonce)");

    /// @notice The ledger that slashed stakes fund.
    RewardLedger public immutable ledger;
    /// @notice The token of the stakes.
    IERC20 public immutable token;
    /// @notice The stake of each participant.
    uint128 public immutable stake;
    /// @notice The most that can be slashed of one stake.
    uint128 public immutable slashCap;
    /// @notice The number of seconds after leaving in which a stake cannot be withdrawn, and can still be slashed.
    uint40 public immutable unbonding;

    /// @notice An account's stake, when it can be withdrawn (0: it has not left), and the nonce of its next slash.
    mapping(address account => Member) public members;

    event Joined(address indexed account, address indexed payer, uint256 stake);
    event Left(address indexed account, uint64 withdrawableAt);
    event Withdrawn(address indexed account, uint256 amount);
    event Slashed(address indexed account, uint64 nonce, uint256 amount, bytes32 evidenceHash);

    error ZeroStake();
    error SlashCapAboveStake(uint128 slashCap, uint128 stake);
    error AlreadyStaked(address account);
    error NotActive(address account);
    error NotLeaving(address account);
    error StillUnbonding(uint64 withdrawableAt);
    error NotStaked(address account);
    error ZeroSlash();
    error SlashCapExceeded(uint256 amount, uint128 room);

    /// @dev Takes the committee and the token from the ledger.
    constructor(RewardLedger ledger_, uint128 stake_, uint128 slashCap_, uint40 unbonding_)
        Committee("fedmeta ParticipantRegistry", ledger_.committee(), ledger_.threshold())
    {
        if (stake_ == 0) revert ZeroStake();
        if (slashCap_ > stake_) revert SlashCapAboveStake(slashCap_, stake_);
        ledger = ledger_;
        token = ledger_.token();
        stake = stake_;
        slashCap = slashCap_;
        unbonding = unbonding_;
    }

    /// @notice Pays the stake of an account. Anyone may pay it; it is returned to the account.
    function join(address account) external {
        Member storage member = members[account];
        if (member.stake != 0) revert AlreadyStaked(account);
        member.stake = stake;
        emit Joined(account, msg.sender, stake);
        token.safeTransferFrom(msg.sender, address(this), stake);
    }

    /// @notice Starts the caller's unbonding delay.
    function leave() external {
        if (!isActive(msg.sender)) revert NotActive(msg.sender);
        uint64 withdrawableAt = uint64(block.timestamp) + unbonding;
        members[msg.sender].withdrawableAt = withdrawableAt;
        emit Left(msg.sender, withdrawableAt);
    }

    /// @notice Returns what remains of its stake to an account that has left. Anyone may submit it; only the account
    /// is paid.
    function withdraw(address account) external {
        Member storage member = members[account];
        if (member.withdrawableAt == 0) revert NotLeaving(account);
        if (block.timestamp < member.withdrawableAt) revert StillUnbonding(member.withdrawableAt);
        uint256 amount = member.stake;
        member.stake = 0;
        member.withdrawableAt = 0;
        member.nonce++;
        emit Withdrawn(account, amount);
        token.safeTransfer(account, amount);
    }

    /// @notice Takes a part of an account's stake, also while it is unbonding, and funds the ledger with it. Anyone may
    /// submit it.
    /// @param signatures See `_requireCommittee`; the members sign the other arguments and the account's nonce.
    function slash(address account, uint256 amount, bytes32 evidenceHash, bytes calldata signatures) external {
        Member storage member = members[account];
        uint128 left = member.stake;
        if (left == 0) revert NotStaked(account);
        if (amount == 0) revert ZeroSlash();
        uint128 room = slashCap - (stake - left);
        if (amount > room) revert SlashCapExceeded(amount, room);
        uint64 nonce = member.nonce;
        _requireCommittee(keccak256(abi.encode(SLASH_TYPEHASH, account, amount, evidenceHash, nonce)), signatures);

        member.stake = left - uint128(amount);
        member.nonce = nonce + 1;
        if (amount == left) member.withdrawableAt = 0;
        emit Slashed(account, nonce, amount, evidenceHash);
        token.forceApprove(address(ledger), amount);
        ledger.fund(amount);
    }

    /// @notice Whether an account has staked and not left.
    function isActive(address account) public view returns (bool) {
        return members[account].stake != 0 && members[account].withdrawableAt == 0;
    }
}
