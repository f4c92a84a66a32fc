"""The tools are pinned: the same compiler, libraries and nodes for everyone."""

import json
from urllib.parse import urlsplit

from tests.contracts.workshop import CONTRACTS


def test_every_tool_is_pinned_to_one_version() -> None:
    assert json.loads((CONTRACTS / "package.json").read_text())["dependencies"] == {
        "@foundry-rs/anvil": "1.7.1",
        "@foundry-rs/cast": "1.7.1",
        "@foundry-rs/forge": "1.7.1",
        "@openzeppelin/contracts": "5.4.0",
        "ethers": "6.17.0",
        "ganache": "7.9.2",
        "solc": "0.8.37",
    }


def test_the_lockfile_fetches_from_npms_registry_alone() -> None:
    packages = json.loads((CONTRACTS / "package-lock.json").read_text())["packages"]
    hosts = {
        urlsplit(package["resolved"]).netloc for package in packages.values() if "resolved" in package
    }
    assert hosts <= {"registry.npmjs.org"}


def test_the_lockfile_knows_the_tools_of_every_platform() -> None:
    packages = json.loads((CONTRACTS / "package-lock.json").read_text())["packages"]
    for tool in ("anvil", "cast", "forge"):
        for platform in packages[f"node_modules/@foundry-rs/{tool}"]["optionalDependencies"]:
            assert packages[f"node_modules/{platform}"]["version"] == "1.7.1"
