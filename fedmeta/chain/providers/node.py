"""Anvil and Ganache, started by us on 127.0.0.1, with the accounts that everybody knows."""

import socket
import time
from pathlib import Path
from types import TracebackType

from fedmeta.chain.errors import ChainDownError, ChainError
from fedmeta.chain.keys import BALANCE, MNEMONIC, development_keys
from fedmeta.chain.providers.base import Chain
from fedmeta.chain.providers.folder import (
    ANVIL_STATE,
    FolderLock,
    Identity,
    NodeKind,
    identify,
    mend,
    new_identity,
)
from fedmeta.chain.providers.process import NodeProcess, find_anvil, find_ganache, stop_orphan
from fedmeta.chain.providers.transports import HttpTransport
from fedmeta.chain.signing import Signer
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

    def __init__(self, identity: Identity, port: int, process: NodeProcess, lock: FolderLock) -> None:
        self.kind = identity.kind
        self.url = f"http://127.0.0.1:{port}"
        self.chain_id = identity.chain_id
        self.accounts = tuple(
            (Signer(key).address, "0x" + key.hex()) for key in development_keys(identity.accounts)
        )
        self.folder = lock.folder
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
    kind: NodeKind, folder: Path, port: int | None = None, chain_id: int = 31337, accounts: int = 10
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
    find = find_anvil if kind == "anvil" else find_ganache
    binary = find()
    if port is not None and _in_use(port):
        raise UsageError(f"port {port} is in use: choose another")
    lock = FolderLock(folder)
    try:
        stop_orphan(lock.folder)
        identity = identify(lock.folder, new_identity(kind, chain_id, accounts))
        mend(lock.folder / ANVIL_STATE)
        for _ in range(_TRIES):
            chosen = port or _free_port()
            process = NodeProcess([*binary, *_arguments(identity, chosen, lock.folder)], lock.folder)
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
        raise RunError(f"{kind} does not start: {reason} (see {lock.folder / 'node.log'})")
    except BaseException:
        lock.release()
        raise


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


def _arguments(identity: Identity, port: int, folder: Path) -> list[str]:
    balance = str(BALANCE // 10**18)
    if identity.kind == "anvil":
        options: dict[str, object] = {
            "--host": "127.0.0.1",
            "--port": port,
            "--mnemonic": MNEMONIC,
            "--accounts": identity.accounts,
            "--balance": balance,
            "--chain-id": identity.chain_id,
            "--hardfork": HARDFORK,
            "--gas-limit": identity.gas_limit,
            "--state": folder / ANVIL_STATE,
            # Without it a killed node would have saved nothing.
            "--state-interval": 1,
            "--cache-path": folder / "cache",
            # Anvil makes a genesis block at every start, also beside the one in its state: they must be
            # the same one.
            "--timestamp": identity.timestamp,
        }
    else:
        options = {
            "--server.host": "127.0.0.1",
            "--server.port": port,
            "--wallet.mnemonic": MNEMONIC,
            "--wallet.totalAccounts": identity.accounts,
            "--wallet.defaultBalance": balance,
            "--chain.chainId": identity.chain_id,
            "--chain.networkId": identity.chain_id,
            "--chain.hardfork": HARDFORK,
            "--miner.blockGasLimit": identity.gas_limit,
            "--database.dbPath": folder / "ganache",
        }
    quiet = "--quiet" if identity.kind == "anvil" else "--logging.quiet"
    return [quiet, *(str(part) for option in options.items() for part in option)]


def _answers(process: NodeProcess, port: int, identity: Identity) -> bool:
    """Wait until the node answers as the chain it should be; False if it ended or never does."""
    end = time.monotonic() + _START_SECONDS
    transport = HttpTransport(f"http://127.0.0.1:{port}")
    try:
        while process.running and time.monotonic() < end:
            try:
                chain = Chain(transport)
                genesis = chain.request("eth_getBlockByNumber", ("0x0", False))
            except ChainDownError:
                time.sleep(_POLL_SECONDS)
                continue
            except ChainError:
                return False
            # Another node may have got the port in between.
            ours = (chain.chain_id, int(genesis["gasLimit"], 16)) == (
                identity.chain_id,
                identity.gas_limit,
            )
            if ours and identity.kind == "anvil":
                _set_clock(chain)
            return ours
        return False
    finally:
        transport.close()


def _set_clock(chain: Chain) -> None:
    """Let Anvil's clock go right: it would go on from where its state ends."""
    latest, now = chain.request("eth_getBlockByNumber", ("latest", False)), int(time.time())
    if now > int(latest["timestamp"], 16):
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
