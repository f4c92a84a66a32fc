// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ParticipantRegistry} from "../../src/ParticipantRegistry.sol";
import {RewardLedger} from "../../src/RewardLedger.sol";
import {Deploy} from "../Deploy.sol";
import {Fixture} from "../Fixture.sol";
import {vm} from "../Vm.sol";

/// @dev What participants, their committee and an attacker with all the signatures ever made might do to a registry,
/// and plain bookkeeping of what should come of it.
contract RegistryHandler is Fixture {
    uint128 public constant STAKE = 1_000;
    uint128 public constant SLASH_CAP = 700;
    uint40 public constant UNBONDING = 1 days;
    address public constant OUTSIDER = address(0xBAD);

    struct Signed {
        address account;
        uint256 amount;
        bytes signatures;
    }

    RewardLedger public ledger;
    ParticipantRegistry public registry;

    /// @dev Slashes that were submitted, or whose stake is gone.
    Signed[] private spent;

    /// @notice By account: what is left of the stake, what of it was slashed, when it can be withdrawn (0: not
    /// leaving), and all that was ever withdrawn.
    mapping(address account => uint256) public staked;
    mapping(address account => uint256) public slashedOf;
    mapping(address account => uint256) public withdrawableAt;
    mapping(address account => uint256) public withdrawn;
    /// @notice All that was ever slashed.
    uint256 public slashed;
    mapping(string what => uint256) public count;

    bool public signaturesReused;
    bool public withdrawnTooEarly;
    bool public slashedTooMuch;

    constructor() {
        deployToken();
        ledger = deployLedger(0);
        registry = Deploy.registry(ledger, STAKE, SLASH_CAP, UNBONDING);
        token.approve(address(registry), type(uint256).max);
    }

    function account(uint256 who) external view returns (address) {
        return accounts[who];
    }

    function balanceOf(address who) external view returns (uint256) {
        return token.balanceOf(who);
    }

    function join(uint256 who) external {
        address a = accounts[who % 3];
        if (staked[a] != 0) return;
        registry.join(a);
        staked[a] = STAKE;
        count["joined"]++;
    }

    function leave(uint256 who) external {
        address a = accounts[who % 3];
        if (staked[a] == 0 || withdrawableAt[a] != 0) return;
        vm.prank(a);
        registry.leave();
        withdrawableAt[a] = block.timestamp + UNBONDING;
        count["left"]++;
    }

    function withdraw(uint256 who) external {
        address a = accounts[who % 3];
        bool expected = withdrawableAt[a] != 0 && block.timestamp >= withdrawableAt[a];
        Signed memory late = _sign(a, 1);
        vm.prank(OUTSIDER);
        (bool done,) = address(registry).call(abi.encodeCall(registry.withdraw, (a)));
        require(done || !expected, "a withdrawal that is due was refused");
        count[done ? "withdrawn" : "withdrawal refused"]++;
        if (!done) return;
        if (!expected) withdrawnTooEarly = true;
        if (slashedOf[a] > 0) count["withdrawn after a slash"]++;
        withdrawn[a] += staked[a];
        (staked[a], slashedOf[a], withdrawableAt[a]) = (0, 0, 0);
        spent.push(late);
    }

    function slash(uint256 who, uint256 amount) external {
        address a = accounts[who % 3];
        amount %= STAKE / 2;
        bool expected = staked[a] > 0 && amount > 0 && slashedOf[a] + amount <= SLASH_CAP;
        Signed memory signed = _sign(a, amount);
        bool done = _slash(signed);
        require(done || !expected, "a slash within the cap was refused");
        if (done && !expected) slashedTooMuch = true;
        if (!done) {
            count["slash refused"]++;
            return;
        }
        spent.push(signed);
        if (withdrawableAt[a] != 0) count["slashed while unbonding"]++;
        count["slashed"]++;
        slashed += amount;
        slashedOf[a] += amount;
        staked[a] -= amount;
    }

    function replay(uint256 which) external {
        if (spent.length == 0) return;
        Signed memory s = spent[spent.length - 1 - which % (spent.length < 3 ? spent.length : 3)];
        if (staked[s.account] > 0 && slashedOf[s.account] + s.amount <= SLASH_CAP) count["replayed within the cap"]++;
        if (_slash(s)) signaturesReused = true;
    }

    function warp(uint256 time) external {
        vm.warp(block.timestamp + time % 1 days);
    }

    function _sign(address a, uint256 amount) private view returns (Signed memory) {
        (,, uint64 nonce) = registry.members(a);
        return Signed(a, amount, signatures(slashDigest(address(registry), a, amount, "evidence", nonce)));
    }

    function _slash(Signed memory s) private returns (bool done) {
        (done,) =
            address(registry).call(abi.encodeCall(registry.slash, (s.account, s.amount, "evidence", s.signatures)));
    }
}
