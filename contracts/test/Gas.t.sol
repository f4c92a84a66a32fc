// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardLedger} from "../src/RewardLedger.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

/// @dev What a transaction costs, the 21,000 and the calldata included. Every call is a transaction of its own here.
/// forge-config: default.isolate = true
/// forge-config: all.isolate = true
contract GasTest is Fixture {
    uint256 private constant RECORD = 105_000;
    uint256 private constant CLAIM = 90_000;
    /// @dev 10,000 participants make a tree of 14 levels.
    uint256 private constant LEVELS = 14;

    RewardLedger private ledger;
    uint256[] private amounts = amountsOf(30_000_000, 20_000_000, 3_000_000);

    event Gas(string what, uint256 gas);

    /// @dev Amounts of a real size: a pot of a hundred tokens is 10^8 units.
    function setUp() public {
        deployToken();
        RewardLedger.Terms memory large = terms(0);
        (large.roundCap, large.lifetimeCap) = (1e8, 1e12);
        ledger = Deploy.ledger(large);
        fund(ledger, 1e12);
    }

    function test_everyRecordCostsAtMost105kWith3Of5Signatures() public {
        post(ledger, amounts);
        _costs("the first record", RECORD);
        amounts = amountsOf(40_000_000, 30_000_000, 4_000_000);
        post(ledger, amounts);
        _costs("a later record", RECORD);
        for (uint256 who = 0; who < 3; who++) {
            claim(ledger, 2, amounts, who);
        }
        post(ledger, amountsOf(50_000_000, 40_000_000, 5_000_000));
        _costs("a record after all was claimed", RECORD);
    }

    function test_aClaimAmong10000CostsAtMost90kForAnAccountThatNeverHeldAToken() public {
        (address account, uint256 amount) = (0x1234567890AbcdEF1234567890aBcdef12345678, 98_765_432);
        bytes32 root = Tree.leaf(account, amount);
        bytes32[] memory proof = new bytes32[](LEVELS);
        for (uint256 i = 0; i < LEVELS; i++) {
            proof[i] = keccak256(abi.encode(i));
            root = Tree.pair(root, proof[i]);
        }
        RewardLedger.Record memory r = recordOf(ledger, amounts);
        (r.rewardsRoot, r.total) = (root, 1e8);
        submit(ledger, r);
        ledger.claim(1, account, amount, proof);
        _costs("a claim", CLAIM);
    }

    function _costs(string memory what, uint256 limit) private {
        uint256 gas = vm.lastCallGas().gasTotalUsed;
        emit Gas(what, gas);
        vm.assertLe(gas, limit, what);
    }
}
