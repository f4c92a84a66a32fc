"""Anvil and Ganache, started by us on 127.0.0.1, with the accounts that everybody knows."""

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

# The newest rules that all three chains know, and what the contracts are compiled for.
HARDFORK = "shanghai"

_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_TRIES = 3


class Node:
    """A running node; a context manager that stops it.

    Attributes:
        kind: anvil or ganache.
        url: Where it answers.
        chain_id: Its chain id.
        accounts: Funded development accounts: address and private key, as 0x text.
        folder: Where its state is kept.
        pid: Its process.
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
        """Stop it with its state saved; twice is fine."""
        self._process.stop()
        self._lock.release()

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit status."""
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
        folder: Keeps the chain's state; made if missing.
        port: None: a free one.
        chain_id: Of a new chain, and what an old one must have.
        accounts: How many accounts of a new chain have funds.

    Raises:
        UsageError: No binary, a port or folder in use, or another chain in the folder.
        RunError: If it was started and did not answer.
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
    """A node of ours as a web3 provider, which ends when it is closed: ``Web3(Anvil("folder"))``.

    A provider of this kind says how to find the program (`find`) and with what to start it
    (`arguments`); its class's name is the chain's.

    Args:
        folder: Keeps the chain's state; made if missing.
        chain_id: Of a new chain, and what an old one must have.
        port: None: a free one.

    Raises:
        UsageError: As `start_node`.
        RunError: If it was started and did not answer.
    """

    def __init__(
        self, folder: Path | str, chain_id: int = DEFAULT_CHAIN_ID, port: int | None = None
    ) -> None:
        kind: Any = type(self).__name__.lower()
        self.node = start_node(kind, Path(folder), port, chain_id)
        super().__init__(self.node.url, f"{kind} at {self.node.url}")

    def close(self) -> None:
        """Close the connections, and stop the node with its state saved. Twice is fine."""
        super().close()
        self.node.stop()


def banner(node: Node) -> str:
    """Return what `fedmeta chain up` shows: accounts, keys, chain id, URL, and a warning."""
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
        "EVERYBODY KNOWS THESE KEYS: whatever is sent to these accounts on a real network is lost.",
        "",
    ]
    for title, content in sections.items():
        lines += [title, "=" * len(title), *content, ""]
    return "\n".join([*lines, f"Listening on {node.url}"])


def _answers(process: NodeProcess, port: int, identity: Identity) -> bool:
    """Wait until the node answers as the chain it should be; False if it ended or never does."""
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
            # Another node may have got the port in between.
            found = chain.chain_id, genesis["gasLimit"]
            ours = found == (identity.chain_id, identity.gas_limit)
            if ours and identity.kind == "anvil":
                _set_clock(chain)
            return ours
        return False
    finally:
        provider.close()


def _set_clock(chain: Chain) -> None:
    """Let Anvil's clock go right: it would go on from where its state ends."""
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
