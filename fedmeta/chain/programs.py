"""Finds the programs of the nodes that fedmeta starts; does not import web3."""

import os
import platform
import shutil
import sys
from pathlib import Path

from fedmeta.errors import UsageError

NODE_MODULES = "FEDMETA_NODE_MODULES"
"""Environment variable: a node_modules folder to search first."""

_CHECKOUT = Path(__file__).parents[2] / "contracts" / "node_modules"
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def find_anvil() -> list[str]:
    """Return the command that starts Anvil: the native binary, so that signals reach it.

    Raises:
        UsageError: If it is not installed.
    """
    machine = _ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    native = f"@foundry-rs/anvil-{sys.platform}-{machine}/bin/anvil"
    for folder in program_folders():
        if (folder / native).is_file():
            return [str(folder / native)]
    found = shutil.which("anvil")
    if found and not _is_script(Path(found)):
        return [found]
    if found:
        # npm's launcher script: the binary is in a sibling package.
        for parent in Path(found).resolve().parents:
            if parent.name == "node_modules" and (parent / native).is_file():
                return [str(parent / native)]
    raise UsageError("there is no Anvil: run `make nodes` in a checkout, or install Foundry")


def find_ganache() -> list[str]:
    """Return the command that starts Ganache.

    Raises:
        UsageError: If there is no Ganache or no Node.js.
    """
    scripts = [folder / "ganache" / "dist" / "node" / "cli.js" for folder in program_folders()]
    installed = shutil.which("ganache")
    scripts += [Path(installed).resolve()] if installed else []
    script = next((script for script in scripts if script.is_file()), None)
    if script is None:
        raise UsageError(
            "there is no Ganache: run `make nodes` in a checkout, or `npm install -g ganache@7.9.2`"
        )
    # An inactive virtual environment may have Node.js next to its Python.
    beside = Path(sys.executable).parent / "node"
    node = shutil.which("node") or (str(beside) if beside.is_file() else None)
    if node is None:
        raise UsageError("Ganache needs Node.js, and there is none: install it, or run `make nodes`")
    return [node, str(script)]


def program_folders() -> list[Path]:
    """Return the npm package folders to search for a node's program."""
    named = os.environ.get(NODE_MODULES)
    return [*([Path(named)] if named else []), _CHECKOUT]


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"
