"""A chain's folder: locked by one process, with the saved state of its node."""

import fcntl
import json
import os
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmeta.errors import UsageError
from fedmeta.files import open_own, read_file, read_json, write_atomically

_HELD: set[Path] = set()
_GUARD = threading.Lock()


class FolderLock:
    """Holds a folder until it is released or the process ends, however it ends.

    A POSIX record lock: a forked child does not have it, so none that outlives us keeps the folder. Such
    a lock does not exclude its own process, hence the set of folders held.

    Args:
        folder: Made if missing.

    Raises:
        UsageError: If it is held already, or cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        path = self.folder / "lock"
        with _GUARD:
            if self.folder in _HELD:
                raise UsageError(f"the chain in {folder} is open already")
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = os.fdopen(open_own(path, os.O_RDWR | os.O_APPEND), "a+", encoding="ascii")
            except OSError as error:
                raise UsageError(f"no chain can be kept in {folder}: {error.strerror}") from None
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.seek(0)
                holder = self._file.read().strip() or "unknown"
                self._file.close()
                raise UsageError(
                    f"the chain in {folder} is open in another process (pid {holder})"
                ) from None
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()
            _HELD.add(self.folder)

    def release(self) -> None:
        """Let go of the folder; twice is fine."""
        with _GUARD:
            if self.folder in _HELD and not self._file.closed:
                self._file.close()
                _HELD.discard(self.folder)


NodeKind = Literal["anvil", "ganache"]

ANVIL_STATE = "anvil.json"
_IDENTITY = "chain.json"
_LEAST_GAS = 60_000_000
_MOST_STATE = 1 << 30


@dataclass(frozen=True)
class Identity:
    """What makes a chain this one; written once, when its folder is made.

    Attributes:
        kind: anvil or ganache.
        chain_id: Its chain id.
        accounts: Funded accounts.
        gas_limit: Of a block. Partly random: a node's genesis block holds nothing else that could tell
            apart two chains that were started within one second.
        timestamp: Of Anvil's genesis block. With it a chain that was lost before Anvil saved it for the
            first time is the same again, rolled back to its start.
    """

    kind: NodeKind
    chain_id: int
    accounts: int
    gas_limit: int
    timestamp: int


def new_identity(kind: NodeKind, chain_id: int, accounts: int) -> Identity:
    """Return the identity of a chain that does not exist yet."""
    gas_limit = _LEAST_GAS + secrets.randbelow(2**24)
    return Identity(kind, chain_id, accounts, gas_limit, int(time.time()))


def identify(folder: Path, new: Identity) -> Identity:
    """Return the identity of the chain in `folder`, which is `new` if there is none yet.

    Raises:
        UsageError: If it is another chain than wanted.
    """
    path = folder / _IDENTITY
    if not path.exists():
        write_atomically(path, json.dumps(vars(new)).encode())
        return new
    try:
        found = Identity(**read_json(path))
    except (OSError, ValueError, TypeError):
        raise UsageError(f"{path} is damaged: remove {folder} to start a new chain") from None
    if (found.kind, found.chain_id) != (new.kind, new.chain_id):
        raise UsageError(
            f"{folder} holds a chain of {found.kind} with chain id {found.chain_id}, "
            f"not of {new.kind} with {new.chain_id}"
        )
    return found


def mend(state: Path) -> None:
    """Put back the last good copy of Anvil's state if it was killed while it wrote the file.

    The chain then lacks what came after that copy, as after a reorganisation.
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
