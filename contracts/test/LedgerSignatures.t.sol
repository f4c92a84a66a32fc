// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {Committee} from "../src/Committee.sol";
import {RewardLedger} from "../src/RewardLedger.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

contract LedgerSignaturesTest is Fixture {
    /// @dev The order of secp256k1: (r, n - s) verifies wherever (r, s) does.
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    RewardLedger private ledger;
    RewardLedger.Record private r;
    bytes32 private hash;

    function setUp() public {
        deployToken();
        ledger = deployLedger(1 days);
        r = recordOf(ledger, amountsOf(1, 2, 3));
        hash = recordDigest(ledger, r);
    }

    function test_theThresholdIsEnough() public {
        ledger.record(r, signatures(hash, THRESHOLD));
    }

    function test_soIsTheWholeCommittee() public {
        ledger.record(r, signatures(hash, 5));
    }

    function test_oneFewerIsNot() public {
        _refused(signatures(hash, 2), abi.encodeWithSelector(Committee.TooFewSignatures.selector, 2, 3));
    }

    function test_noneIsNot() public {
        _refused("", abi.encodeWithSelector(Committee.TooFewSignatures.selector, 0, 3));
    }

    function test_aSignatureCountsOnce() public {
        bytes memory one = signature(keys[0], hash);
        bytes memory thrice = bytes.concat(one, one, one);
        _refused(thrice, abi.encodeWithSelector(Committee.SignersNotAscending.selector, vm.addr(keys[0])));
    }

    function test_signersOutOfOrderAreRefused() public {
        bytes memory mixed = bytes.concat(signature(keys[1], hash), signature(keys[0], hash), signature(keys[2], hash));
        _refused(mixed, abi.encodeWithSelector(Committee.SignersNotAscending.selector, vm.addr(keys[0])));
    }

    function testFuzz_aStrangersSignatureIsRefused(uint256 key) public {
        key = 1 + key % (ORDER - 1);
        address stranger = vm.addr(key);
        if (ledger.isMember(stranger)) return;
        bytes memory mixed = bytes.concat(signatures(hash, 2), signature(key, hash));
        bytes4 reason =
            stranger < vm.addr(keys[1]) ? Committee.SignersNotAscending.selector : Committee.NotAMember.selector;
        _refused(mixed, abi.encodeWithSelector(reason, stranger));
    }

    function testFuzz_aLengthThatIsNoMultipleIsRefused(uint8 extra) public {
        bytes memory padded = bytes.concat(signatures(hash), new bytes(1 + uint256(extra) % 64));
        _refused(padded, abi.encodeWithSelector(Committee.SignaturesMalformed.selector, padded.length));
    }

    function test_theMalleableTwinOfASignatureIsRefused() public {
        (uint8 v, bytes32 x, bytes32 s) = vm.sign(keys[2], hash);
        bytes32 twin = bytes32(ORDER - uint256(s));
        bytes memory all = bytes.concat(signatures(hash, 2), x, twin, bytes1(v == 27 ? 28 : 27));
        _refused(all, abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureS.selector, twin));
    }

    function test_aSignatureThatRecoversNobodyIsRefused() public {
        bytes memory all = bytes.concat(signatures(hash, 2), new bytes(65));
        _refused(all, abi.encodeWithSelector(ECDSA.ECDSAInvalidSignature.selector));
    }

    function test_noFieldCanBeChangedUnderTheSignatures() public {
        bytes memory signed = signatures(hash);
        for (uint256 field = 0; field < 6; field++) {
            RewardLedger.Record memory changed = r;
            if (field == 0) changed.lastRound++;
            if (field == 1) changed.rewardsRoot = ~changed.rewardsRoot;
            if (field == 2) changed.contributionsRoot = ~changed.contributionsRoot;
            if (field == 3) changed.modelHash = ~changed.modelHash;
            if (field == 4) changed.evidenceHash = ~changed.evidenceHash;
            if (field == 5) changed.total++;
            assertForged(address(ledger), abi.encodeCall(ledger.record, (changed, signed)));
        }
        ledger.record(r, signed);
    }

    function test_signaturesForAnotherLedgerAreRefused() public {
        RewardLedger other = deployLedger(0);
        _refusedAsForged(recordDigest(ledgerDomain(other), CAMPAIGN, 0, r));
    }

    function test_signaturesForAnotherCampaignAreRefused() public {
        _refusedAsForged(recordDigest(ledgerDomain(ledger), "another campaign", 0, r));
    }

    function test_signaturesForAnotherChainAreRefused() public {
        bytes32 elsewhere = domain("fedmeta RewardLedger", block.chainid + 1, address(ledger));
        _refusedAsForged(recordDigest(elsewhere, CAMPAIGN, 0, r));
    }

    function test_afterAForkTheChainsOwnSignaturesWork() public {
        vm.chainId(block.chainid + 1);
        _refusedAsForged(hash);
        submit(ledger, r);
    }

    function test_signaturesFromBeforeAVetoAreRefused() public {
        submit(ledger, r);
        veto(ledger, 1, rootsOf(r.rewardsRoot));
        _refusedAsForged(hash);
    }

    function test_aVetosSignaturesDoNotWorkTwice() public {
        submit(ledger, r);
        bytes memory signed = signatures(vetoDigest(ledger, 1, "evidence"));
        ledger.veto(1, rootsOf(r.rewardsRoot), "evidence", signed);
        submit(ledger, r);
        assertForged(address(ledger), abi.encodeCall(ledger.veto, (1, rootsOf(r.rewardsRoot), "evidence", signed)));
    }

    function test_aRecordsSignaturesDoNotVetoIt() public {
        ledger.record(r, signatures(hash));
        assertForged(
            address(ledger), abi.encodeCall(ledger.veto, (1, rootsOf(r.rewardsRoot), r.evidenceHash, signatures(hash)))
        );
    }

    function _refused(bytes memory signed, bytes memory reason) private {
        vm.expectRevert(reason);
        ledger.record(r, signed);
    }

    function _refusedAsForged(bytes32 signedHash) private {
        assertForged(address(ledger), abi.encodeCall(ledger.record, (r, signatures(signedHash))));
    }
}
