"""Chains that we start, as web3 providers; one module per chain, named as in a config."""

from collections.abc import Callable
from typing import Any

from fedmeta.registry import Registry

PROVIDERS: Registry[Callable[..., Any]] = Registry("chain.provider", "fedmeta.chain.providers")
"""Each is called with a state folder, a chain id and a port (None: any).

It returns a web3 provider with a `name` for messages, and `close`, which may be called twice.
"""
