"""Chains that we start, as web3 providers; one module per chain, named as in a config."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedmeta.registry import Registry

if TYPE_CHECKING:
    from fedmeta.chain.urls import OwnProvider

PROVIDERS: "Registry[Callable[..., OwnProvider]]" = Registry("chain.provider", "fedmeta.chain.providers")
"""Each is called with a state folder, a chain id and a port (None: any)."""
