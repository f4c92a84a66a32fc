// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @title A fixed committee of which `threshold` members must sign
/// @notice Signatures are EIP-712, so they are bound to this contract on this chain.
abstract contract Committee is EIP712 {
    uint256 private constant SIGNATURE_LENGTH = 65;

    /// @notice How many members must sign.
    uint8 public immutable threshold;

    /// @notice Whether an account is a member.
    mapping(address account => bool) public isMember;

    address[] private _members;

    /// @notice The members must be in strictly ascending order, so that none is zero or appears twice.
    error MembersNotAscending(address member);
    error ThresholdOutOfRange(uint8 threshold, uint256 members);
    error SignaturesMalformed(uint256 length);
    error TooFewSignatures(uint256 given, uint8 threshold);
    error SignersNotAscending(address signer);
    error NotAMember(address signer);

    constructor(string memory name, address[] memory members, uint8 threshold_) EIP712(name, "1") {
        if (threshold_ == 0 || threshold_ > members.length) revert ThresholdOutOfRange(threshold_, members.length);
        address last = address(0);
        for (uint256 i = 0; i < members.length; i++) {
            if (members[i] <= last) revert MembersNotAscending(members[i]);
            last = members[i];
            isMember[last] = true;
        }
        _members = members;
        threshold = threshold_;
    }

    /// @notice The members, in ascending order.
    function committee() external view returns (address[] memory) {
        return _members;
    }

    /// @dev Reverts unless at least `threshold` members signed the struct. `signatures` are 65 bytes each (r, s, v),
    /// in strictly ascending order of their signers, so that none counts twice.
    function _requireCommittee(bytes32 structHash, bytes calldata signatures) internal view {
        if (signatures.length % SIGNATURE_LENGTH != 0) revert SignaturesMalformed(signatures.length);
        uint256 given = signatures.length / SIGNATURE_LENGTH;
        if (given < threshold) revert TooFewSignatures(given, threshold);

        bytes32 digest = _hashTypedDataV4(structHash);
        address last = address(0);
        for (uint256 i = 0; i < signatures.length; i += SIGNATURE_LENGTH) {
            bytes32 r = bytes32(signatures[i:i + 32]);
            bytes32 s = bytes32(signatures[i + 32:i + 64]);
            address signer = ECDSA.recover(digest, uint8(signatures[i + 64]), r, s);
            if (signer <= last) revert SignersNotAscending(signer);
            if (!isMember[signer]) revert NotAMember(signer);
            last = signer;
        }
    }
}
