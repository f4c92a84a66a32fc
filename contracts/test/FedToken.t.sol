// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FedToken} from "../src/FedToken.sol";
import {Deploy} from "./Deploy.sol";
import {vm} from "./Vm.sol";

contract FedTokenTest {
    FedToken private token = Deploy.token("Fed", "FED", 1_000_000);

    function test_theWholeSupplyGoesToTheDeployer() public view {
        vm.assertEq(token.totalSupply(), 1_000_000, "supply");
        vm.assertEq(token.balanceOf(address(this)), 1_000_000, "deployer");
    }

    function test_aTokenHasSixDecimals() public view {
        vm.assertEq(token.decimals(), 6, "decimals");
    }

    function test_aSignatureApprovesInsteadOfATransaction() public {
        address owner = vm.addr(7);
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, owner, address(this), 5, 0, block.timestamp));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(7, keccak256(bytes.concat(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
        token.permit(owner, address(this), 5, block.timestamp, v, r, s);
        vm.assertEq(token.allowance(owner, address(this)), 5, "allowance");
    }
}
