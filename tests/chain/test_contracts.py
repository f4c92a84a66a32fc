"""Shipped contracts, their call data and results; eth_abi and eth_utils are the oracles."""

import json
from importlib.resources import files
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from web3 import Web3

from fedmeta.chain.contracts import NAMES, Artifact, explain_revert, load_artifact, parse_artifact
from fedmeta.errors import RunError

ACCOUNT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


def content(name: str) -> dict[str, Any]:
    text = (files("fedmeta.chain") / "artifacts" / f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@pytest.mark.parametrize("name", NAMES)
class TestShipped:
    def test_it_says_what_it_was_made_with(self, name: str) -> None:
        made = content(name)
        assert (load_artifact(name).name, made["name"]) == (name, name)
        assert made["compiler"]["version"].startswith("0.8.37")
        assert made["compiler"]["settings"]["evmVersion"] == "shanghai"
        assert len(bytes.fromhex(made["sourceHash"][2:])) == 32

    def test_its_code_fits_on_a_chain(self, name: str) -> None:
        # EIP-170 and EIP-3860.
        assert 0 < len(load_artifact(name).deployed) <= 24_576
        assert len(load_artifact(name).bytecode) <= 49_152

    def test_it_is_recognised_whatever_its_immutables(self, name: str) -> None:
        artifact = load_artifact(name)
        code = bytearray(artifact.deployed)
        for start, length in artifact.immutables:
            assert not any(code[start : start + length])
            code[start : start + length] = b"\xaa" * length
        assert artifact.matches(bytes(code))

    def test_other_code_is_not(self, name: str) -> None:
        artifact = load_artifact(name)
        assert not artifact.matches(b"")
        assert not artifact.matches(artifact.deployed + b"\0")
        changed = bytearray(artifact.deployed)
        changed[0] ^= 1
        assert not artifact.matches(bytes(changed))

    def test_calls_without_arguments_are_web3s(self, name: str) -> None:
        artifact = load_artifact(name)
        contract = Web3().eth.contract(abi=list(artifact.abi))
        views = [e["name"] for e in artifact.abi if e["type"] == "function" and not e["inputs"]]
        assert views
        for view in views:
            assert "0x" + artifact.encode(view).hex() == contract.encode_abi(view)


def test_calls_are_encoded_as_the_abi_says() -> None:
    data = load_artifact("FedToken").encode("transfer", ACCOUNT, 5)
    assert data == bytes.fromhex("a9059cbb") + encode(["address", "uint256"], [ACCOUNT, 5])


def test_structs_are_tuples() -> None:
    artifact = load_artifact("RewardLedger")
    words = [bytes([i] * 32) for i in range(4)]
    data = artifact.encode("record", (1, 2, *words, 3), b"\x01\x02")
    types = ["(uint64,uint64,bytes32,bytes32,bytes32,bytes32,uint256)", "bytes"]
    assert data[4:] == encode(types, [(1, 2, *words, 3), b"\x01\x02"])


def test_return_values_have_checksummed_addresses() -> None:
    artifact = load_artifact("RewardLedger")
    assert artifact.decode("committee", encode(["address[]"], [[ACCOUNT, OTHER]])) == ((ACCOUNT, OTHER),)


def test_a_deployment_is_the_code_and_the_arguments() -> None:
    artifact = load_artifact("FedToken")
    arguments = encode(["string", "string", "uint256"], ["Fed", "FED", 9])
    assert artifact.creation("Fed", "FED", 9) == artifact.bytecode + arguments


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("transfer", (ACCOUNT,)), ("nothing", ()), ("transfer", (ACCOUNT, -1)), ("transfer", ("x", 1))],
)
def test_calls_that_do_not_fit_are_refused(function: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"no function|not values"):
        load_artifact("FedToken").encode(function, *arguments)


def test_a_missing_function_is_named() -> None:
    with pytest.raises(ValueError, match="FedToken has no function nothing"):
        load_artifact("FedToken").decode("nothing", b"")


class TestRefusals:
    def test_a_custom_error_has_its_name_and_arguments(self) -> None:
        # The selector that OpenZeppelin's draft-IERC6093 and every explorer have.
        data = bytes.fromhex("e450d38c") + encode(["address", "uint256", "uint256"], [ACCOUNT, 0, 5])
        error = explain_revert(data)
        assert (error.name, error.arguments) == ("ERC20InsufficientBalance", (ACCOUNT, 0, 5))
        assert error.data == data
        assert str(error) == f"the contract refused: ERC20InsufficientBalance({ACCOUNT}, 0, 5)"

    def test_every_error_of_every_contract_is_known(self) -> None:
        for name in NAMES:
            for entry in content(name)["abi"]:
                if entry["type"] == "error" and not entry["inputs"]:
                    selector = keccak(f"{entry['name']}()".encode())[:4]
                    assert explain_revert(selector).name == entry["name"]

    @pytest.mark.parametrize(
        ("data", "name", "arguments"),
        [
            (bytes.fromhex("08c379a0") + encode(["string"], ["no"]), "Error", ("no",)),
            (bytes.fromhex("4e487b71") + (17).to_bytes(32), "Panic", (17,)),
            (b"", "", ()),
            (b"\x01\x02", "", ()),
            (b"\xde\xad\xbe\xef" * 9, "", ()),
            # A known selector with what is no encoding.
            (bytes.fromhex("e450d38c") + b"\x01", "", ()),
        ],
    )
    def test_and_others_are_shown_as_they_are(
        self, data: bytes, name: str, arguments: tuple[object, ...]
    ) -> None:
        error = explain_revert(data)
        assert (error.name, error.arguments, error.data) == (name, arguments, data)


class TestDamaged:
    def test_a_missing_artifact_is_named(self) -> None:
        with pytest.raises(RunError, match=r"Nothing\.json is damaged or missing"):
            load_artifact("Nothing")

    def test_immutables_lie_within_the_code(self) -> None:
        beyond = {"1": [{"start": 10**6, "length": 32}]}
        with pytest.raises(ValueError, match="beyond the end"):
            parse_artifact(content("FedToken") | {"immutableReferences": beyond})

    def test_parsing_is_what_loading_does(self) -> None:
        parsed: Artifact = parse_artifact(content("FedToken"))
        assert parsed.deployed == load_artifact("FedToken").deployed
