"""The ledger: chains, contracts, keys, proofs, journal and settlement.

The names below are the package's public names. They are imported on first use, because web3 takes a
second to import and is an optional extra; without it a one-line error says what to install.
"""

from importlib import import_module
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
from fedmeta.chain.options import LOCAL_CHAIN_IDS, ChainOptions, StakingOptions

if TYPE_CHECKING:
    from fedmeta.chain.chain import *  # noqa: F403
    from fedmeta.chain.contracts import *  # noqa: F403
    from fedmeta.chain.hashing import *  # noqa: F403
    from fedmeta.chain.keys import *  # noqa: F403
    from fedmeta.chain.merkle import *  # noqa: F403
    from fedmeta.chain.node import *  # noqa: F403
    from fedmeta.chain.providers.embedded import Embedded
    from fedmeta.chain.signing import *  # noqa: F403
    from fedmeta.chain.typed_data import *  # noqa: F403

_NAMES = {
    "chain": ("Chain", "open_chain"),
    "contracts": ("Artifact", "Contract", "load_artifact"),
    "hashing": ("keccak",),
    "keys": ("ClientKeys", "Keys", "development_keys", "open_client_keys", "open_keys"),
    "merkle": ("MerkleTree", "contributions_tree", "rewards_tree"),
    "node": ("Node", "banner", "start_node"),
    "signing": ("Signer", "recover"),
    "typed_data": (
        "Record",
        "Slash",
        "Veto",
        "record_digest",
        "slash_digest",
        "update_digest",
        "veto_digest",
    ),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "LOCAL_CHAIN_IDS",
    "ChainDownError",
    "ChainError",
    "ChainOptions",
    "NoNodeError",
    "RevertedError",
    "RpcError",
    "StakingOptions",
    "embedded",
    "require_extra",
    *_HOMES,
]


def embedded(folder: Path | str) -> "Embedded":
    """Return the embedded chain in a folder as a web3 provider, for ``Web3(embedded(folder))``.

    Raises:
        UsageError: The folder is in use, or holds another chain.
    """
    require_extra()
    from fedmeta.chain.providers.embedded import Embedded

    return Embedded(folder)


if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        require_extra()
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
