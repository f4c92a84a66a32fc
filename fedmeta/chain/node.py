"""Starts Anvil and Ganache on 127.0.0.1, with the public development accounts."""

import json
import secrets
import shutil
import socket
import time
from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedmeta.chain.chain import Chain
from fedmeta.chain.errors import ChainDownError, ChainError
from fedmeta.chain.keys import BALANCE, MNEMONIC, development_keys
from fedmeta.chain.locks import FileLock
from fedmeta.chain.node_process import NodeProcess, stop_orphan
from fedmeta.chain.options import DEFAULT_CHAIN_ID
from fedmeta.chain.providers import PROVIDERS
from fedmeta.chain.rpc import Http
from fedmeta.chain.signing import Signer
from fedmeta.errors import RunError, UsageError
from fedmeta.files import read_file, read_json, write_atomically

NodeKind = Literal["anvil", "ganache"]

# The newest hard fork that all three chains support; the contracts are compiled for it.
HARDFORK = "shanghai"

ANVIL_STATE = "anvil.json"
_IDENTITY = "chain.json"
_LEAST_GAS = 60_000_000
_MOST_STATE = 1 << 30
_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_TRIES = 3


@dataclass(frozen=True)
class Identity:
    """Identity of a chain; written once, when its folder is created."""

    kind: NodeKind
    chain_id: int
    accounts: int
    # Of a block. Partly random: else two chains started within one second have equal genesis blocks.
    gas_limit: int
    # Of Anvil's genesis block: a chain lost before Anvil first saved it restarts as the same one.
    timestamp: int


class Node(Http, AbstractContextManager["Node"]):
    """A running node of ours as a web3 provider, ``Web3(Anvil("folder"))``; `close` stops it.

    A subclass names the chain, finds its program and gives the arguments.

    Args:
        folder: State folder of the chain; created if missing.
        chain_id: Id of a new chain; an existing one must have it.
        port: None: a free port.
        accounts: Number of funded accounts of a new chain.

    Attributes:
        url: Its URL.
        accounts: Funded development accounts: address and private key, as 0x text.

    Raises:
        UsageError: No binary, a port or folder in use, or another chain in the folder.
        RunError: If it does not answer after its start.
    """

    kind: NodeKind

    def __init__(
        self,
        folder: Path | str,
        chain_id: int = DEFAULT_CHAIN_ID,
        port: int | None = None,
        accounts: int = 10,
    ) -> None:
        binary = self.find()
        _free_port(port)
        self.folder = Path(folder).absolute()
        self._lock = FileLock(self.folder / "lock", f"the chain in {self.folder}")
        try:
            stop_orphan(self.folder)
            identity = _identify(self.folder, self.kind, chain_id, accounts)
            _mend(self.folder / ANVIL_STATE)
            self._process, chosen = self._started(binary, identity, port)
        except BaseException:
            self._lock.release()
            raise
        self.url, self.chain_id = _url(chosen), identity.chain_id
        self.accounts = tuple(
            (Signer(key).address, "0x" + key.hex()) for key in development_keys(identity.accounts)
        )
        super().__init__(self.url, f"{self.kind} at {self.url}")

    @staticmethod
    @abstractmethod
    def find() -> list[str]:
        """Return the command that starts it."""

    @staticmethod
    @abstractmethod
    def arguments(identity: Identity, port: int, folder: Path, hardfork: str) -> list[str]:
        """Return the command's arguments for the chain of `folder`."""

    def _started(
        self, binary: list[str], identity: Identity, port: int | None
    ) -> tuple[NodeProcess, int]:
        """Return the process of a node that answers, and its port."""
        for _ in range(_TRIES):
            chosen = _free_port(port)
            arguments = self.arguments(identity, chosen, self.folder, HARDFORK)
            process = NodeProcess([*binary, *arguments], self.folder)
            try:
                if _answers(process, chosen, identity):
                    return process, chosen
                reason = process.last_words()
            except BaseException:
                process.stop()
                raise
            process.stop()
            if port is not None or "address" not in reason.lower():
                break
        raise RunError(f"{self.kind} does not start: {reason} (see {self.folder / 'node.log'})")

    def close(self) -> None:
        """Close the connections, and stop the node with its state saved. May be called twice."""
        super().close()
        self._process.stop()
        self._lock.release()

    def wait(self) -> int:
        """Wait until it ends, and return its exit status."""
        return self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.close()


def start_node(
    kind: NodeKind,
    folder: Path,
    port: int | None = None,
    chain_id: int = DEFAULT_CHAIN_ID,
    accounts: int = 10,
) -> Node:
    """Start a node on 127.0.0.1 and wait until it answers; see `Node`."""
    start: Any = PROVIDERS.get(kind)
    node: Node = start(folder, chain_id, port, accounts)
    return node


def banner(node: Node) -> str:
    """Return the output of `fedmeta chain up`: accounts, keys, chain id, URL, and a warning."""
    funds = f"{BALANCE // 10**18:,} ETH"
    sections = {
        "Available accounts": [f"({i}) {one[0]} ({funds})" for i, one in enumerate(node.accounts)],
        "Private keys": [f"({i}) {one[1]}" for i, one in enumerate(node.accounts)],
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


def _identify(folder: Path, kind: NodeKind, chain_id: int, accounts: int) -> Identity:
    """Return the identity of the chain in `folder`; if it has none, store a new one."""
    path = folder / _IDENTITY
    if not path.exists():
        gas_limit = _LEAST_GAS + secrets.randbelow(2**24)
        new = Identity(kind, chain_id, accounts, gas_limit, int(time.time()))
        write_atomically(path, json.dumps(vars(new)).encode())
        return new
    try:
        found = Identity(**read_json(path))
    except (OSError, ValueError, TypeError):
        raise UsageError(f"{path} is damaged: remove {folder} to start a new chain") from None
    if (found.kind, found.chain_id) != (kind, chain_id):
        raise UsageError(
            f"{folder} holds a chain of {found.kind} with chain id {found.chain_id}, "
            f"not of {kind} with {chain_id}"
        )
    return found


def _mend(state: Path) -> None:
    """Restore the last good copy of Anvil's state if Anvil was killed while writing it.

    The chain then lacks the blocks after that copy, as after a reorganisation.
    """
    copy = state.with_suffix(".copy")
    try:
        json.loads(read_file(state, _MOST_STATE))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        if not copy.exists():
            raise UsageError(f"{state} is damaged: remove {state.parent} to start a new chain") from None
        shutil.copyfile(copy, state)
    else:
        unfinished = state.with_suffix(".part")
        shutil.copyfile(state, unfinished)
        unfinished.replace(copy)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _answers(process: NodeProcess, port: int, identity: Identity) -> bool:
    """Wait until the node answers as the expected chain; False if it ends or does not in time."""
    end = time.monotonic() + _START_SECONDS
    provider = Http(_url(port))
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
            now = int(time.time())
            if ours and identity.kind == "anvil" and now > chain.eth.get_block("latest")["timestamp"]:
                # Its clock would continue from its saved state.
                chain.request("anvil_setTime", (now,))
            return ours
        return False
    finally:
        provider.close()


def _free_port(wanted: int | None) -> int:
    """Return the wanted port, or any; a `UsageError` if it is in use."""
    try:
        with socket.create_server(("127.0.0.1", wanted or 0)) as server:
            return int(server.getsockname()[1])
    except OSError:
        raise UsageError(f"port {wanted} is in use: choose another") from None
