"""Ganache, started by us on 127.0.0.1."""

import shutil
import sys
from pathlib import Path

from fedmeta.chain.keys import BALANCE, MNEMONIC
from fedmeta.chain.node import OwnNode
from fedmeta.chain.node_process import Identity, program_folders
from fedmeta.errors import UsageError


class Ganache(OwnNode):
    """A Ganache of ours as a web3 provider; see `OwnNode`."""

    @staticmethod
    def find() -> list[str]:
        """Return the command that starts it.

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
        # A virtual environment that is not activated may have Node.js beside its Python.
        beside = Path(sys.executable).parent / "node"
        node = shutil.which("node") or (str(beside) if beside.is_file() else None)
        if node is None:
            raise UsageError("Ganache needs Node.js, and there is none: install it, or run `make nodes`")
        return [node, str(script)]

    @staticmethod
    def arguments(identity: Identity, port: int, folder: Path, hardfork: str) -> list[str]:
        """Return the arguments that make it the chain of a folder."""
        options: dict[str, object] = {
            "--server.host": "127.0.0.1",
            "--server.port": port,
            "--wallet.mnemonic": MNEMONIC,
            "--wallet.totalAccounts": identity.accounts,
            "--wallet.defaultBalance": BALANCE // 10**18,
            "--chain.chainId": identity.chain_id,
            "--chain.networkId": identity.chain_id,
            "--chain.hardfork": hardfork,
            "--miner.blockGasLimit": identity.gas_limit,
            "--database.dbPath": folder / "ganache",
        }
        return ["--logging.quiet", *(str(part) for option in options.items() for part in option)]
