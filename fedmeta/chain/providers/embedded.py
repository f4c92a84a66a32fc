"""The embedded chain as a web3 provider: py-evm executes transactions, SQLite stores the state."""

import json
import secrets
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from fedmeta.chain.evm.machine import Machine
from fedmeta.chain.evm.methods import Methods
from fedmeta.chain.evm.store import Store
from fedmeta.chain.hashing import from_address
from fedmeta.chain.keys import BALANCE, development_keys
from fedmeta.chain.locks import FileLock
from fedmeta.chain.options import DEFAULT_CHAIN_ID, MOST_MEMBERS
from fedmeta.chain.signing import Signer
from fedmeta.errors import UsageError

FILE = "embedded.sqlite"
_CHAIN_ID = "chain id"


class Embedded(JSONBaseProvider):
    """A chain in this process as a web3 provider: ``Web3(fedmeta.chain.embedded(folder))``.

    Reopened in the same folder it has the same blocks and hashes. The accounts of the public development
    mnemonic have funds, as on Anvil.

    Args:
        folder: Its state folder; created if missing.
        chain_id: Id of a new chain; an existing one must have it.
        port: Unused: it opens no port.

    Raises:
        UsageError: The folder is in use, or holds another chain.
    """

    name = "the embedded chain"

    def __init__(
        self, folder: Path | str, chain_id: int = DEFAULT_CHAIN_ID, port: int | None = None
    ) -> None:
        super().__init__()
        del port
        folder = Path(folder)
        self._guard = threading.Lock()
        with ExitStack() as held:
            held.callback(FileLock(folder / "lock", f"the chain in {folder}").release)
            store = held.enter_context(closing(Store(folder / FILE)))
            self._methods = Methods(_open(store, folder, chain_id))
            self._held = held.pop_all()

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the reply to one request."""
        return self.make_batch_request([(method, params)])[0]

    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        """Return the replies to several requests, in order."""
        with self._guard:
            return [
                {"jsonrpc": "2.0", "id": place, **self._methods.answer(method, self._plain(params))}  # type: ignore[typeddict-item]
                for place, (method, params) in enumerate(batch_requests)
            ]

    def _plain(self, params: Any) -> Any:
        # Parameters may contain bytes and web3's own mappings, which only its encoder handles.
        return json.loads(self.encode_rpc_request(RPCEndpoint(""), params))["params"]

    def close(self) -> None:
        """Release the folder; the state is already saved. May be called twice."""
        with self._guard:
            self._held.close()


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
