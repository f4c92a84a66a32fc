"""What ships is what the sources compile to."""

import json
from pathlib import Path

import pytest

from tests.contracts.workshop import ARTIFACTS, build, workshop

NAMES = ("FedToken", "ParticipantRegistry", "RewardLedger")


def read(name: str) -> dict:
    return json.loads((ARTIFACTS / f"{name}.json").read_text())


def test_the_artifacts_are_what_the_sources_compile_to_byte_for_byte(tmp_path: Path) -> None:
    built = tmp_path / "built"
    done = build(workshop(tmp_path), built)
    assert done.returncode == 0, done.stderr
    fresh = {file.name: file.read_bytes() for file in built.iterdir()}
    shipped = {file.name: file.read_bytes() for file in ARTIFACTS.glob("*.json")}
    assert sorted(shipped) == [f"{name}.json" for name in NAMES]
    assert fresh == shipped, "the sources changed: node contracts/build.mjs"


def test_a_build_that_fails_changes_no_artifact(tmp_path: Path) -> None:
    contracts = workshop(tmp_path)
    (contracts / "src" / "Reserve.sol").write_text("this is not Solidity")
    target = tmp_path / "fedmeta" / "chain" / "artifacts"
    assert build(contracts, target).returncode != 0
    assert {file.name for file in target.iterdir()} == {f"{name}.json" for name in NAMES}
    for file in target.iterdir():
        assert file.read_bytes() == (ARTIFACTS / file.name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_says_how_it_was_made(name: str) -> None:
    artifact = read(name)
    keys = (
        "name",
        "abi",
        "bytecode",
        "deployedBytecode",
        "immutableReferences",
        "compiler",
        "sourceHash",
    )
    assert tuple(artifact) == keys
    assert artifact["name"] == name
    assert artifact["compiler"]["version"].startswith("0.8.37+")
    assert artifact["compiler"]["settings"]["evmVersion"] == "shanghai"
    assert len(bytes.fromhex(artifact["sourceHash"].removeprefix("0x"))) == 32


@pytest.mark.parametrize("name", NAMES)
def test_every_contract_fits_the_limits_on_code(name: str) -> None:
    # EIP-170 and EIP-3860: 24,576 bytes deployed, twice that to deploy, arguments included.
    artifact = read(name)
    assert len(bytes.fromhex(artifact["deployedBytecode"].removeprefix("0x"))) <= 24_576
    assert len(bytes.fromhex(artifact["bytecode"].removeprefix("0x"))) <= 2 * 24_576 - 1_024
