"""The embedded chain as a transport: opened in a folder, one request at a time."""

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from fedmeta.chain.hashing import from_address
from fedmeta.chain.keys import BALANCE, development_keys
from fedmeta.chain.options import MOST_MEMBERS
from fedmeta.chain.providers.base import Call, Reply
from fedmeta.chain.providers.embedded.machine import Machine
from fedmeta.chain.providers.embedded.methods import Methods
from fedmeta.chain.providers.embedded.store import Store
from fedmeta.chain.providers.folder import FolderLock
from fedmeta.chain.signing import Signer
from fedmeta.errors import UsageError

FILE = "embedded.sqlite"
_CHAIN_ID = "chain id"


class EmbeddedTransport:
    """A chain in this process.

    Args:
        folder: Where its state is kept; made if missing.
        chain_id: Of a new chain, and what an old one must have.

    Raises:
        UsageError: The folder is in use, or holds another chain.
    """

    name = "the embedded chain"

    def __init__(self, folder: Path, chain_id: int) -> None:
        self._guard = threading.Lock()
        self._lock = FolderLock(folder)
        try:
            self._store = Store(folder / FILE)
        except BaseException:
            self._lock.release()
            raise
        try:
            self._methods = Methods(_open(self._store, folder, chain_id))
        except BaseException:
            self.close()
            raise

    def send(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the replies to `calls` in order."""
        with self._guard:
            return [self._methods.answer(method, params) for method, params in calls]

    def close(self) -> None:
        """Let go of the folder; everything is saved already."""
        with self._guard:
            self._store.close()
            self._lock.release()


def _open(store: Store, folder: Path, chain_id: int) -> Machine:
    if store.head() is None:
        machine = Machine(store, chain_id)
        store.remember(_CHAIN_ID, str(chain_id))
        accounts = [Signer(key).address for key in development_keys(1 + MOST_MEMBERS)]
        machine.create({from_address(a): BALANCE for a in accounts}, secrets.token_bytes(32))
        return machine
    found = int(store.note(_CHAIN_ID) or 0)
    if found != chain_id:
        raise UsageError(f"the chain in {folder} has chain id {found}, not {chain_id}")
    return Machine(store, chain_id)
