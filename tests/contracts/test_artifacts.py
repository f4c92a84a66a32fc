"""What ships is what the sources compile to."""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmeta.chain.hashing import keccak
from tests.contracts.workshop import ARTIFACTS, CONTRACTS, build, workshop

NAMES = ("FedToken", "ParticipantRegistry", "RewardLedger")


def read(name: str) -> dict:
    return json.loads((ARTIFACTS / f"{name}.json").read_text())


def imported(source: str) -> Iterator[str]:
    """Yield a source and all that it imports, from contracts/ on, as the compiler names them."""
    yield source
    text = (CONTRACTS / source).read_text()
    for name in re.findall(r'^(?:import|\}).*"(.+\.sol)";$', text, re.MULTILINE):
        own = os.path.normpath(Path(source).parent / name)
        yield from imported(own if name.startswith(".") else f"node_modules/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_was_made_from_these_sources_with_these_settings(name: str) -> None:
    """Compiling them again, which takes as long as a hundred other tests, is for the slow ones."""
    files = {file: (CONTRACTS / file).read_bytes() for file in imported(f"src/{name}.sol")}
    lines = [f"{file} 0x{keccak(files[file]).hex()}\n" for file in sorted(files)]
    assert read(name)["sourceHash"] == "0x" + hashlib.sha256("".join(lines).encode()).hexdigest()
    profiles = tomllib.loads((CONTRACTS / "foundry.toml").read_text())["profile"]
    wanted, settings = profiles["default"] | profiles["ship"], read(name)["compiler"]["settings"]
    optimizer = {"enabled": wanted["optimizer"], "runs": wanted["optimizer_runs"]}
    assert (settings["optimizer"], settings["viaIR"]) == (optimizer, wanted["via_ir"])
    assert settings["evmVersion"] == wanted["evm_version"]


@pytest.mark.slow
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
