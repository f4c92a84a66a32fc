"""The ledger: chains, contracts, keys, proofs, journal and settlement.

The names below are the package's public names. They are imported on first use, because web3 takes a
second to import and is an optional extra; without it a one-line error says what to install.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fedmeta.chain.errors import (
    ChainDownError,
    ChainError,
    NoNodeError,
    RevertedError,
    RpcError,
    require_extra,
)
from fedmeta.chain.options import ChainOptions, StakingOptions
from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
    from fedmeta.chain.chain import Chain, open_chain
    from fedmeta.chain.contracts import load_artifact
    from fedmeta.chain.keys import ClientKeys, development_keys, open_client_keys, open_keys
    from fedmeta.chain.node import Node, banner, start_node
    from fedmeta.chain.providers.embedded import Embedded
    from fedmeta.chain.signing import Signer, recover, update_digest
else:
    _load, __dir__ = lazy_names(__name__)

    def __getattr__(name):
        if name in __all__:
            require_extra()
        return _load(name)


__all__ = [
    "Chain",
    "ChainDownError",
    "ChainError",
    "ChainOptions",
    "ClientKeys",
    "NoNodeError",
    "Node",
    "RevertedError",
    "RpcError",
    "Signer",
    "StakingOptions",
    "banner",
    "development_keys",
    "embedded",
    "load_artifact",
    "open_chain",
    "open_client_keys",
    "open_keys",
    "recover",
    "require_extra",
    "start_node",
    "update_digest",
]


def embedded(folder: Path | str) -> "Embedded":
    """Return the embedded chain in a folder as a web3 provider, for ``Web3(embedded(folder))``.

    Raises:
        UsageError: The folder is in use, or holds another chain.
    """
    require_extra()
    from fedmeta.chain.providers.embedded import Embedded

    return Embedded(folder)
