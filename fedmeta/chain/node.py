"""Starts Anvil and Ganache on 127.0.0.1, with the public development accounts."""

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from fedmeta.chain.chain import Chain
from fedmeta.chain.errors import ChainDownError, ChainError
from fedmeta.chain.keys import BALANCE, MNEMONIC, development_keys
from fedmeta.chain.locks import FileLock
from fedmeta.chain.node_process import (
    ANVIL_STATE,
    Identity,
    NodeKind,
    NodeProcess,
    identify,
    mend,
    new_identity,
    stop_orphan,
)
from fedmeta.chain.options import DEFAULT_CHAIN_ID
from fedmeta.chain.providers import PROVIDERS
from fedmeta.chain.signing import Signer
from fedmeta.chain.urls import Http
from fedmeta.errors import RunError, UsageError

# The newest hard fork that all three chains support; the contracts are compiled for it.
HARDFORK = "shanghai"

_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_TRIES = 3


class Node:
    """A running node; a context manager that stops it.

    Attributes:
        kind: anvil or ganache.
        url: Its URL.
        chain_id: Its chain id.
        accounts: Funded development accounts: address and private key, as 0x text.
        folder: Its state folder.
        pid: Its process id.
    """

    def __init__(self, identity: Identity, port: int, process: NodeProcess, lock: FileLock) -> None:
        self.kind = identity.kind
        self.url = f"http://127.0.0.1:{port}"
        self.chain_id = identity.chain_id
        self.accounts = tuple(
            (Signer(key).address, "0x" + key.hex()) for key in development_keys(identity.accounts)
        )
        self.folder = process.folder
        self.pid = process.pid
        self._process = process
        self._lock = lock

    def stop(self) -> None:
        """Stop it with its state saved; may be called twice."""
        self._process.stop()
        self._lock.release()

    def wait(self) -> int:
        """Wait until it ends, and return its exit status."""
        return self._process.wait()

    def __enter__(self) -> "Node":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_node(
    kind: NodeKind,
    folder: Path,
    port: int | None = None,
    chain_id: int = DEFAULT_CHAIN_ID,
    accounts: int = 10,
) -> Node:
    """Start a node on 127.0.0.1 and wait until it answers.

    Args:
        kind: anvil or ganache.
        folder: State folder of the chain; created if missing.
        port: None: a free port.
        chain_id: Id of a new chain; an existing one must have it.
        accounts: Number of funded accounts of a new chain.

    Raises:
        UsageError: No binary, a port or folder in use, or another chain in the folder.
        RunError: If it does not answer after its start.
    """
    part: Any = PROVIDERS.get(kind)
    binary = part.find()
    if port is not None and _in_use(port):
        raise UsageError(f"port {port} is in use: choose another")
    folder = folder.absolute()
    lock = FileLock(folder / "lock", f"the chain in {folder}")
    try:
        stop_orphan(folder)
        identity = identify(folder, new_identity(kind, chain_id, accounts))
        mend(folder / ANVIL_STATE)
        for _ in range(_TRIES):
            chosen = port or _free_port()
            arguments = part.arguments(identity, chosen, folder, HARDFORK)
            process = NodeProcess([*binary, *arguments], folder)
            try:
                if _answers(process, chosen, identity):
                    return Node(identity, chosen, process, lock)
                reason = process.last_words()
            except BaseException:
                process.stop()
                raise
            process.stop()
            if port is not None or "address" not in reason.lower():
                break
        raise RunError(f"{kind} does not start: {reason} (see {folder / 'node.log'})")
    except BaseException:
        lock.release()
        raise


class OwnNode(Http):
    """A node of ours as a web3 provider, stopped by `close`: ``Web3(Anvil("folder"))``.

    Subclasses find the program (`find`) and give its arguments (`arguments`); the class name is the name
    of the chain.

    Args:
        folder: State folder of the chain; created if missing.
        chain_id: Id of a new chain; an existing one must have it.
        port: None: a free port.

    Raises:
        UsageError: As `start_node`.
        RunError: If it does not answer after its start.
    """

    def __init__(
        self, folder: Path | str, chain_id: int = DEFAULT_CHAIN_ID, port: int | None = None
    ) -> None:
        kind: Any = type(self).__name__.lower()
        self.node = start_node(kind, Path(folder), port, chain_id)
        super().__init__(self.node.url, f"{kind} at {self.node.url}")

    def close(self) -> None:
        """Close the connections, and stop the node with its state saved. May be called twice."""
        super().close()
        self.node.stop()


def banner(node: Node) -> str:
    """Return the output of `fedmeta chain up`: accounts, keys, chain id, URL, and a warning."""
    funds = f"{BALANCE // 10**18:,} ETH"
    addresses = [f"({i}) {address} ({funds})" for i, (address, _) in enumerate(node.accounts)]
    keys = [f"({i}) {key}" for i, (_, key) in enumerate(node.accounts)]
    sections = {
        "Available accounts": addresses,
        "Private keys": keys,
        "Wallet": [f"Mnemonic:        {MNEMONIC}", "Derivation path: m/44'/60'/0'/0/"],
        "Chain": [f"Chain ID:  {node.chain_id}", f"Hard fork: {HARDFORK}", f"State:     {node.folder}"],
    }
    lines = [
        f"{node.kind} for development only.",
        "THESE KEYS ARE PUBLIC: anything sent to these accounts on a real network is lost.",
        "",
    ]
    for title, content in sections.items():
        lines += [title, "=" * len(title), *content, ""]
    return "\n".join([*lines, f"Listening on {node.url}"])


def _answers(process: NodeProcess, port: int, identity: Identity) -> bool:
    """Wait until the node answers as the expected chain; False if it ends or does not in time."""
    end = time.monotonic() + _START_SECONDS
    provider = Http(f"http://127.0.0.1:{port}")
    try:
        while process.running and time.monotonic() < end:
            try:
                chain = Chain(provider)
                genesis = chain.eth.get_block(0)
            except ChainDownError:
                time.sleep(_POLL_SECONDS)
                continue
            except ChainError:
                return False
            # Another node may have taken the port meanwhile.
            found = chain.chain_id, genesis["gasLimit"]
            ours = found == (identity.chain_id, identity.gas_limit)
            if ours and identity.kind == "anvil":
                _set_clock(chain)
            return ours
        return False
    finally:
        provider.close()


def _set_clock(chain: Chain) -> None:
    """Set Anvil's clock to the current time: it would continue from its saved state."""
    now = int(time.time())
    if now > chain.eth.get_block("latest")["timestamp"]:
        chain.request("anvil_setTime", (now,))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _in_use(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False
