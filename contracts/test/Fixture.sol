// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Committee} from "../src/Committee.sol";
import {FedToken} from "../src/FedToken.sol";
import {RewardLedger} from "../src/RewardLedger.sol";
import {Deploy} from "./Deploy.sol";
import {Signing} from "./Signing.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

/// @dev A campaign of three participants whose test contract is the sponsor, and what the tests do with it over and
/// over.
abstract contract Fixture is Signing {
    bytes32 internal constant CAMPAIGN = keccak256("campaign");
    uint128 internal constant ROUND_CAP = 1_000;
    uint128 internal constant LIFETIME_CAP = 100_000;
    uint40 internal constant LIFETIME = 30 days;
    uint256 internal constant SUPPLY = 1e18;
    uint256 internal constant BUDGET = 50_000;

    FedToken internal token;
    address[] internal accounts = [address(0xA11CE), address(0xB0B), address(0xCA201)];

    function deployToken() internal {
        token = Deploy.token("Fed", "FED", SUPPLY);
    }

    function terms(uint40 challengeDelay) internal view returns (RewardLedger.Terms memory) {
        return RewardLedger.Terms({
            token: IERC20(address(token)),
            sponsor: address(this),
            campaign: CAMPAIGN,
            committee: members(),
            threshold: THRESHOLD,
            roundCap: ROUND_CAP,
            lifetimeCap: LIFETIME_CAP,
            deadline: uint40(block.timestamp) + LIFETIME,
            challengeDelay: challengeDelay
        });
    }

    /// @dev A ledger with BUDGET to award.
    function deployLedger(uint40 challengeDelay) internal returns (RewardLedger ledger) {
        ledger = Deploy.ledger(terms(challengeDelay));
        fund(ledger, BUDGET + ledger.DUST());
    }

    function fund(RewardLedger ledger, uint256 amount) internal {
        token.approve(address(ledger), amount);
        ledger.fund(amount);
    }

    function amountsOf(uint256 a, uint256 b, uint256 c) internal pure returns (uint256[] memory amounts) {
        amounts = new uint256[](3);
        (amounts[0], amounts[1], amounts[2]) = (a, b, c);
    }

    /// @dev A record of the next round that pays the three accounts up to these cumulative amounts.
    function recordOf(RewardLedger ledger, uint256[] memory amounts)
        internal
        view
        returns (RewardLedger.Record memory)
    {
        uint64 round = ledger.nextRound();
        return RewardLedger.Record({
            firstRound: round,
            lastRound: round,
            rewardsRoot: Tree.root(accounts, amounts),
            contributionsRoot: keccak256(abi.encode("contributions", round)),
            modelHash: keccak256(abi.encode("model", round)),
            evidenceHash: keccak256(abi.encode("evidence", round)),
            total: amounts[0] + amounts[1] + amounts[2]
        });
    }

    function submit(RewardLedger ledger, RewardLedger.Record memory r) internal {
        ledger.record(r, signatures(recordDigest(ledger, r)));
    }

    /// @dev Records the next round and returns its number.
    function post(RewardLedger ledger, uint256[] memory amounts) internal returns (uint64) {
        RewardLedger.Record memory r = recordOf(ledger, amounts);
        submit(ledger, r);
        return r.firstRound;
    }

    function claim(RewardLedger ledger, uint64 round, uint256[] memory amounts, uint256 who) internal {
        ledger.claim(round, accounts[who], amounts[who], Tree.proof(accounts, amounts, who));
    }

    function veto(RewardLedger ledger, uint64 firstRound, bytes32[] memory roots) internal {
        ledger.veto(firstRound, roots, "evidence", signatures(vetoDigest(ledger, firstRound, "evidence")));
    }

    function rootsOf(bytes32 a) internal pure returns (bytes32[] memory roots) {
        roots = new bytes32[](1);
        roots[0] = a;
    }

    function rootsOf(bytes32 a, bytes32 b) internal pure returns (bytes32[] memory roots) {
        roots = new bytes32[](2);
        (roots[0], roots[1]) = (a, b);
    }

    /// @dev From signatures over another digest than its own, a contract recovers strangers.
    function assertForged(address target, bytes memory call_) internal {
        (bool done, bytes memory reason) = target.call(call_);
        vm.assertTrue(!done, "accepted");
        bytes4 why = bytes4(reason);
        vm.assertTrue(
            why == Committee.NotAMember.selector || why == Committee.SignersNotAscending.selector,
            "refused for another reason"
        );
    }
}
