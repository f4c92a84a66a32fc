"""Anvil (Foundry), started by us on 127.0.0.1."""

from pathlib import Path

from typing_extensions import override

from fedmeta.chain.keys import BALANCE, MNEMONIC
from fedmeta.chain.node import ANVIL_STATE, Identity, Node
from fedmeta.chain.node_process import find_anvil


class Anvil(Node):
    """An Anvil of ours as a web3 provider; see `Node`."""

    kind = "anvil"
    find = staticmethod(find_anvil)

    @staticmethod
    @override
    def arguments(identity: Identity, port: int, folder: Path, hardfork: str) -> list[str]:
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
            # Otherwise a killed node would lose its state.
            "--state-interval": 1,
            "--cache-path": folder / "cache",
            # Anvil creates a genesis block at every start; it must equal the one in its saved state.
            "--timestamp": identity.timestamp,
        }
        return ["--quiet", *(str(part) for option in options.items() for part in option)]
