"""Where it is written down: chains, contracts, keys, proofs, journal and settlement.

The names below are the package's door. They are imported when they are first used, because web3 takes
a second and is an optional extra; whoever has not installed it gets one line that says so.
"""

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
    from fedmeta.chain.contracts import Artifact, load_artifact
    from fedmeta.chain.hashing import keccak
    from fedmeta.chain.keys import (
        ClientKeys,
        Keys,
        Signer,
        open_client_keys,
        open_keys,
        recover,
    )
    from fedmeta.chain.merkle import MerkleTree, contributions_tree, rewards_tree
    from fedmeta.chain.providers.base import Chain
    from fedmeta.chain.providers.node import Node, banner, start_node
    from fedmeta.chain.providers.open_chain import open_chain
    from fedmeta.chain.typed_data import (
        Record,
        Slash,
        Veto,
        record_digest,
        slash_digest,
        update_digest,
        veto_digest,
    )
else:
    _NAMES = {
        "contracts": ("Artifact", "load_artifact"),
        "hashing": ("keccak",),
        "keys": (
            "ClientKeys",
            "Keys",
            "Signer",
            "open_client_keys",
            "open_keys",
            "recover",
        ),
        "merkle": ("MerkleTree", "contributions_tree", "rewards_tree"),
        "providers.base": ("Chain",),
        "providers.node": ("Node", "banner", "start_node"),
        "providers.open_chain": ("open_chain",),
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
    _HOMES = {name: f"fedmeta.chain.{module}" for module, names in _NAMES.items() for name in names}

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'fedmeta.chain' has no attribute '{name}'")
        from importlib import import_module

        require_extra()
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "LOCAL_CHAIN_IDS",
    "Artifact",
    "Chain",
    "ChainDownError",
    "ChainError",
    "ChainOptions",
    "ClientKeys",
    "Keys",
    "MerkleTree",
    "NoNodeError",
    "Node",
    "Record",
    "RevertedError",
    "RpcError",
    "Signer",
    "Slash",
    "StakingOptions",
    "Veto",
    "banner",
    "contributions_tree",
    "keccak",
    "load_artifact",
    "open_chain",
    "open_client_keys",
    "open_keys",
    "record_digest",
    "recover",
    "require_extra",
    "rewards_tree",
    "slash_digest",
    "start_node",
    "update_digest",
    "veto_digest",
]
