"""Ganache, started by us on 127.0.0.1."""

from pathlib import Path

from typing_extensions import override

from fedmeta.chain.keys import BALANCE, MNEMONIC
from fedmeta.chain.node import Identity, Node
from fedmeta.chain.node_process import find_ganache


class Ganache(Node):
    """A Ganache of ours as a web3 provider; see `Node`."""

    kind = "ganache"
    find = staticmethod(find_ganache)

    @staticmethod
    @override
    def arguments(identity: Identity, port: int, folder: Path, hardfork: str) -> list[str]:
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
