"""Opens a chain from its options."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmeta.chain.errors import ChainDownError, ChainError, NoNodeError, RevertedError
from fedmeta.chain.options import DEFAULT_CHAIN_ID, ChainOptions, expand
from fedmeta.chain.providers.base import Call, Chain, Reply, Transport
from fedmeta.errors import UsageError

if TYPE_CHECKING:
    from fedmeta.chain.providers.node import Node


# What nodes say of an instruction that their rules do not have, each in words of its own.
_UNKNOWN_CODE = re.compile("op_?code|not ?activated|invalid_?operation|bad ?instruction", re.IGNORECASE)


def open_chain(
    options: ChainOptions, folder: Path, environment: Mapping[str, str] = os.environ
) -> Chain:
    """Open the chain that `options.provider` names, starting it if it is ours.

    Args:
        options: Of the chain.
        folder: Where the state of a chain of ours is kept; made if missing. Unused for a URL.
        environment: Where ``${FEDMETA_RPC_...}`` in a URL is looked up.

    Raises:
        NoNodeError: If no node answers at the URL (`ChainDownError` and exit code 2 at once).
        UsageError: Another chain id than `options.chain_id`, a folder or port in use, no binary.
        RunError: If a node of ours does not start.
    """
    url = expand(options.provider, environment) if options.is_url else None
    transport = _connect(url) if url else _start(options, folder)
    try:
        chain = Chain(transport)
        if options.chain_id not in (None, chain.chain_id):
            raise UsageError(
                f"{chain.name} has chain id {chain.chain_id}, and chain.chain_id = {options.chain_id}"
            )
    except BaseException as error:
        transport.close()
        if url and isinstance(error, ChainDownError):
            raise NoNodeError(str(error)) from None
        raise
    return chain


def require_rules(chain: Chain) -> None:
    """Refuse a node whose rules are older than those that the contracts are compiled for.

    It is asked to run code that begins with PUSH0, which came with Shanghai, and returns nothing.

    Raises:
        UsageError: If it does not know that instruction.
    """
    try:
        chain.request("eth_call", ({"data": "0x5f5ff3"}, "latest"))
    except ChainError as error:
        if isinstance(error, RevertedError) or _UNKNOWN_CODE.search(str(error)):
            raise UsageError(
                f"{chain.name} has rules from before Shanghai, and the contracts need Shanghai's or "
                "later ones: start the node with them (Anvil: --hardfork shanghai), or use another"
            ) from None


def _start(options: ChainOptions, folder: Path) -> Transport:
    chain_id = options.chain_id or DEFAULT_CHAIN_ID
    if options.provider == "embedded":
        from fedmeta.chain.providers.embedded.transport import EmbeddedTransport

        return EmbeddedTransport(folder, chain_id)
    from fedmeta.chain.providers.node import start_node
    from fedmeta.chain.providers.transports import HttpTransport

    if options.provider == "anvil":
        node = start_node("anvil", folder, options.port, chain_id)
    elif options.provider == "ganache":
        node = start_node("ganache", folder, options.port, chain_id)
    else:
        raise UsageError("chain.provider = none: there is no chain")
    return _OwnNode(node, HttpTransport(node.url))


def _connect(url: str) -> Transport:
    if url.startswith("http"):
        from fedmeta.chain.providers.transports import HttpTransport

        return HttpTransport(url)
    from fedmeta.chain.providers.transports import WebSocketTransport

    return WebSocketTransport(url)


class _OwnNode:
    """The transport to a node that ends with it."""

    def __init__(self, node: "Node", transport: Transport) -> None:
        self.name = f"{node.kind} at {transport.name}"
        self.node = node
        self._transport = transport

    def send(self, calls: Sequence[Call]) -> list[Reply]:
        return self._transport.send(calls)

    def close(self) -> None:
        self._transport.close()
        self.node.stop()
