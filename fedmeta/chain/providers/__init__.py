"""Chains that we start, one file each: a web3 provider whose file's stem is its name in a config."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedmeta.registry import Registry

if TYPE_CHECKING:
    from fedmeta.chain.urls import OwnProvider

PROVIDERS: "Registry[Callable[..., OwnProvider]]" = Registry("chain.provider", "fedmeta.chain.providers")
"""Each is called with a folder for the chain's state, a chain id and a port (None: any)."""
