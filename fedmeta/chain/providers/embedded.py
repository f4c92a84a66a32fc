"""The embedded chain as a web3 provider: py-evm executes transactions, SQLite stores the state."""

import inspect
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from eth.abc import StateAPI
from eth_typing import Address
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from fedmeta.chain.evm.machine import Call, Machine
from fedmeta.chain.evm.render import Fault, Json, base_fee, data
from fedmeta.chain.evm.store import Store
from fedmeta.chain.hashing import from_address
from fedmeta.chain.keys import BALANCE, development_keys
from fedmeta.chain.locks import FileLock
from fedmeta.chain.options import DEFAULT_CHAIN_ID, MOST_MEMBERS
from fedmeta.chain.signing import Signer
from fedmeta.errors import UsageError

FILE = "embedded.sqlite"
_CHAIN_ID = "chain id"
_TIP = 10**9
_LATEST = ("latest", "pending", "safe", "finalized")
_INVALID = -32602


class _MalformedError(ValueError):
    """The parameters of a request cannot be read."""


class Embedded(JSONBaseProvider):
    """A chain in this process as a web3 provider: ``Web3(fedmeta.chain.embedded(folder))``.

    Reopened in the same folder it has the same blocks and hashes. The accounts of the public development
    mnemonic have funds, as on Anvil. It has the methods that web3 and the ledger use, and time travel.

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
            self._store = held.enter_context(closing(Store(folder / FILE)))
            self._machine = _open(self._store, folder, chain_id)
            self._held = held.pop_all()
        self._snapshots: list[int] = []
        self._methods = self._table()

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the reply to one request."""
        return self.make_batch_request([(method, params)])[0]

    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        """Return the replies to several requests, in order."""
        with self._guard:
            return [
                {"jsonrpc": "2.0", "id": place, **self._answer(method, self._plain(params))}  # type: ignore[typeddict-item]
                for place, (method, params) in enumerate(batch_requests)
            ]

    def _plain(self, params: Any) -> Any:
        # Parameters may contain bytes and web3's own mappings, which only its encoder handles.
        return json.loads(self.encode_rpc_request(RPCEndpoint(""), params))["params"]

    def close(self) -> None:
        """Release the folder; the state is already saved. May be called twice."""
        with self._guard:
            self._held.close()

    def _answer(self, method: str, params: Sequence[object]) -> Json:
        """Return the reply to one request: a dict with ``result`` or ``error``."""
        try:
            function = self._methods.get(method)
            if function is None:
                raise Fault(-32601, f"the method {method} does not exist")
            _bind(function, params)
            return {"result": function(*params)}
        except _MalformedError as error:
            return {"error": {"code": _INVALID, "message": f"{method}: {error}"}}
        except Fault as fault:
            shown: Json = {"code": fault.code, "message": fault.message}
            return {"error": shown if fault.data is None else {**shown, "data": data(fault.data)}}

    def _table(self) -> dict[str, Callable[..., object]]:
        machine, store, number = self._machine, self._store, self._number
        return {
            "web3_clientVersion": lambda: "fedmeta embedded chain",
            "net_version": lambda: str(machine.chain_id),
            "eth_chainId": lambda: hex(machine.chain_id),
            "eth_syncing": lambda: False,
            "eth_accounts": list,
            "eth_blockNumber": lambda: hex(machine.number),
            "eth_gasPrice": lambda: hex(base_fee(machine.header(machine.number)) + _TIP),
            "eth_maxPriorityFeePerGas": lambda: hex(_TIP),
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": lambda account, block="latest": hex(
                self._state(block).get_balance(_address(account))
            ),
            "eth_getTransactionCount": lambda account, block="latest": hex(
                self._state(block).get_nonce(_address(account))
            ),
            "eth_getCode": lambda account, block="latest": data(
                self._state(block).get_code(_address(account))
            ),
            "eth_getStorageAt": lambda account, slot, block="latest": data(
                self._state(block).get_storage(_address(account), _slot(slot)).to_bytes(32)
            ),
            "eth_getBlockByNumber": lambda block, full=False: self._block("number", number(block), full),
            "eth_getBlockByHash": lambda digest, full=False: self._block("hash", _hash(digest), full),
            "eth_getTransactionByHash": lambda digest: store.transaction(_hash(digest)),
            "eth_getTransactionReceipt": lambda digest: store.receipt(_hash(digest)),
            "eth_getLogs": self._logs,
            "eth_call": lambda call, block="latest": data(machine.call(_call(call), number(block))),
            "eth_estimateGas": lambda call, block="latest": hex(
                machine.estimate(_call(call), number(block))
            ),
            "eth_sendRawTransaction": lambda raw: machine.submit(_bytes(raw)),
            "evm_increaseTime": lambda seconds: machine.advance(_int(seconds)),
            "evm_setNextBlockTimestamp": lambda when: machine.set_next_timestamp(_int(when)),
            "evm_mine": self._mine,
            "evm_snapshot": self._snapshot,
            "evm_revert": self._revert,
        }

    def _number(self, block: object) -> int:
        if block in _LATEST:
            return self._machine.number
        return 0 if block == "earliest" else _int(block)

    def _state(self, block: object) -> StateAPI:
        return self._machine.state(self._number(block))

    def _block(self, column: str, value: int | str, full: bool) -> Json | None:
        block = self._store.block(column, value)
        if block and full:
            block["transactions"] = [self._store.transaction(digest) for digest in block["transactions"]]
        return block

    def _fee_history(self, count: object, newest: object, percentiles: object = ()) -> Json:
        last = self._number(newest)
        first = max(last - _int(count) + 1, 0)
        headers = [self._machine.header(number) for number in range(first, last + 1)]
        fees = [hex(base_fee(header)) for header in headers]
        return {
            "oldestBlock": hex(first),
            "baseFeePerGas": [*fees, fees[-1]],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
            "reward": [[hex(_TIP)] * len(_list(percentiles))] * len(headers),
        }

    def _logs(self, wanted: object) -> list[Json]:
        if not isinstance(wanted, Mapping):
            raise _MalformedError("a filter must be an object")
        first = self._number(wanted.get("fromBlock", "latest"))
        last = self._number(wanted.get("toBlock", "latest"))
        if "blockHash" in wanted:
            block = self._store.block("hash", _hash(wanted["blockHash"]))
            if block is None:
                raise Fault(-32000, "unknown block")
            first = last = _int(block["number"])
        addresses = wanted.get("address") or []
        addresses = [addresses] if isinstance(addresses, str) else _list(addresses)
        topics = _list(wanted.get("topics") or [])
        return [
            log for log in self._store.logs(first, last, addresses) if _matches(log["topics"], topics)
        ]

    def _mine(self) -> str:
        self._machine.mine()
        return "0x0"

    def _snapshot(self) -> str:
        self._snapshots.append(self._machine.number)
        return hex(len(self._snapshots))

    def _revert(self, snapshot: object) -> bool:
        index = _int(snapshot) - 1
        if not 0 <= index < len(self._snapshots):
            return False
        self._machine.rewind(self._snapshots[index])
        del self._snapshots[index:]
        return True


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


def _matches(topics: Sequence[str], wanted: Sequence[Any]) -> bool:
    """Return whether a log's topics match a filter: each None, a topic, or a list of choices."""
    if len(wanted) > len(topics):
        return False
    return all(
        choice is None or topic in ([choice] if isinstance(choice, str) else choice)
        for topic, choice in zip(topics, wanted, strict=False)
    )


def _call(call: object) -> Call:
    if not isinstance(call, Mapping):
        raise _MalformedError("a call must be an object")
    return Call(
        sender=_address(call["from"]) if call.get("from") else bytes(20),
        to=_address(call["to"]) if call.get("to") else b"",
        data=_bytes(call.get("input") or call.get("data") or "0x"),
        value=_int(call.get("value") or 0),
        gas=_int(call.get("gas") or 0),
    )


def _bind(function: Callable[..., object], params: Sequence[object]) -> None:
    try:
        inspect.signature(function).bind(*params)
    except TypeError as error:
        raise _MalformedError(str(error)) from None


def _int(value: object) -> int:
    try:
        return value if isinstance(value, int) else int(str(value), 16)
    except ValueError:
        raise _MalformedError(f"not a number: {str(value)[:80]!r}") from None


def _slot(value: object) -> int:
    slot = _int(value)
    if not 0 <= slot < 2**256:
        raise _MalformedError(f"not a storage slot: {str(value)[:80]!r}")
    return slot


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _MalformedError(f"not a list: {str(value)[:80]!r}")
    return value


def _bytes(value: object) -> bytes:
    text = str(value)
    try:
        if not text.startswith("0x"):
            raise ValueError
        return bytes.fromhex(text[2:])
    except ValueError:
        raise _MalformedError(f"not data: {text[:80]!r}") from None


def _hash(value: object) -> str:
    return data(_bytes(value))


def _address(value: object) -> Address:
    try:
        return Address(from_address(str(value)))
    except ValueError as error:
        raise _MalformedError(str(error)) from None
