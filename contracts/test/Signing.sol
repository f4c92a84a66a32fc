// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardLedger} from "../src/RewardLedger.sol";
import {vm} from "./Vm.sol";

/// @dev A committee of five with its private keys, and EIP-712 written out from the standard.
abstract contract Signing {
    string internal constant RECORD_TYPE = "Record(bytes32 campaign,uint64 epoch,uint64 firstRound,uint64 lastRound,bytes32 rewardsRoot,"
        "bytes32 contributionsRoot,bytes32 modelHash,bytes32 evidenceHash,uint256 total)";
    string internal constant VETO_TYPE = "Veto(bytes32 campaign,uint64 epoch,uint64 firstRound,bytes32 evidenceHash)";
    string internal constant SLASH_TYPE = "Slash(address account,uint256 amount,bytes32 evidenceHash,uint64 nonce)";

    uint8 internal constant THRESHOLD = 3;
    /// @dev In ascending order of their addresses.
    uint256[] internal keys = _ascending([uint256(0xA1), 0xA2, 0xA3, 0xA4, 0xA5]);

    function members() internal view returns (address[] memory list) {
        list = new address[](keys.length);
        for (uint256 i = 0; i < list.length; i++) {
            list[i] = vm.addr(keys[i]);
        }
    }

    function domain(string memory name, uint256 chain, address target) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256("1"),
                chain,
                target
            )
        );
    }

    function digest(bytes32 domain_, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(bytes.concat(hex"1901", domain_, structHash));
    }

    function recordDigest(bytes32 domain_, bytes32 campaign, uint64 epoch, RewardLedger.Record memory r)
        internal
        pure
        returns (bytes32)
    {
        bytes memory head = abi.encode(keccak256(bytes(RECORD_TYPE)), campaign, epoch, r.firstRound, r.lastRound);
        bytes memory tail = abi.encode(r.rewardsRoot, r.contributionsRoot, r.modelHash, r.evidenceHash, r.total);
        return digest(domain_, keccak256(bytes.concat(head, tail)));
    }

    /// @dev For the ledger, chain and epoch that are now.
    function recordDigest(RewardLedger ledger, RewardLedger.Record memory r) internal view returns (bytes32) {
        return recordDigest(ledgerDomain(ledger), ledger.campaign(), ledger.epoch(), r);
    }

    function vetoDigest(RewardLedger ledger, uint64 firstRound, bytes32 evidence) internal view returns (bytes32) {
        bytes32 typeHash = keccak256(bytes(VETO_TYPE));
        bytes memory fields = abi.encode(typeHash, ledger.campaign(), ledger.epoch(), firstRound, evidence);
        return digest(ledgerDomain(ledger), keccak256(fields));
    }

    function slashDigest(address registry, address account, uint256 amount, bytes32 evidence, uint64 nonce)
        internal
        view
        returns (bytes32)
    {
        bytes memory fields = abi.encode(keccak256(bytes(SLASH_TYPE)), account, amount, evidence, nonce);
        return digest(domain("fedmeta ParticipantRegistry", block.chainid, registry), keccak256(fields));
    }

    function ledgerDomain(RewardLedger ledger) internal view returns (bytes32) {
        return domain("fedmeta RewardLedger", block.chainid, address(ledger));
    }

    /// @dev One signature: r, s, v.
    function signature(uint256 key, bytes32 hash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, hash);
        return bytes.concat(r, s, bytes1(v));
    }

    /// @dev Of the first `count` members, in their order.
    function signatures(bytes32 hash, uint256 count) internal view returns (bytes memory all) {
        for (uint256 i = 0; i < count; i++) {
            all = bytes.concat(all, signature(keys[i], hash));
        }
    }

    function signatures(bytes32 hash) internal view returns (bytes memory) {
        return signatures(hash, THRESHOLD);
    }

    function _ascending(uint256[5] memory list) private pure returns (uint256[] memory sorted) {
        sorted = new uint256[](5);
        for (uint256 i = 0; i < 5; i++) {
            uint256 place = 0;
            for (uint256 j = 0; j < 5; j++) {
                if (vm.addr(list[j]) < vm.addr(list[i])) place++;
            }
            sorted[place] = list[i];
        }
    }
}
