"""Anvil (Foundry), started by us on 127.0.0.1."""

import platform
import shutil
import sys
from pathlib import Path

from fedmeta.chain.keys import BALANCE, MNEMONIC
from fedmeta.chain.node import OwnNode
from fedmeta.chain.node_process import ANVIL_STATE, Identity, program_folders
from fedmeta.errors import UsageError

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class Anvil(OwnNode):
    """An Anvil of ours as a web3 provider; see `OwnNode`."""

    @staticmethod
    def find() -> list[str]:
        """Return the command that starts it: the native program, so that signals reach it.

        Raises:
            UsageError: If there is none.
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
            # npm's launcher: the program is in the package beside its own.
            for parent in Path(found).resolve().parents:
                if parent.name == "node_modules" and (parent / native).is_file():
                    return [str(parent / native)]
        raise UsageError("there is no Anvil: run `make nodes` in a checkout, or install Foundry")

    @staticmethod
    def arguments(identity: Identity, port: int, folder: Path, hardfork: str) -> list[str]:
        """Return the arguments that make it the chain of a folder."""
        options: dict[str, object] = {
            "--host": "127.0.0.1",
            "--port": port,
            "--mnemonic": MNEMONIC,
            "--accounts": identity.accounts,
            "--balance": BALANCE // 10**18,
            "--chain-id": identity.chain_id,
            "--hardfork": hardfork,
            "--gas-limit": identity.gas_limit,
            "--state": folder / ANVIL_STATE,
            # Without it a killed node would have saved nothing.
            "--state-interval": 1,
            "--cache-path": folder / "cache",
            # Anvil makes a genesis block at every start, also beside the one in its state: they must be
            # the same one.
            "--timestamp": identity.timestamp,
        }
        return ["--quiet", *(str(part) for option in options.items() for part in option)]


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"
