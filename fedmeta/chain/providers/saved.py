"""What a node's folder holds of its chain: which chain it is, and Anvil's state."""

import json
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmeta.errors import UsageError
from fedmeta.files import read_file, read_json, write_atomically

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
