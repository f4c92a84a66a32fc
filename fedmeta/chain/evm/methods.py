"""The JSON-RPC methods of the embedded chain: those that web3 and the ledger use, and time travel."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eth.abc import StateAPI

from fedmeta.chain.evm.machine import Call, Machine
from fedmeta.chain.evm.render import Fault, Json, base_fee, data, quantity
from fedmeta.chain.hashing import from_address

_TIP = 10**9
_LATEST = ("latest", "pending", "safe", "finalized")
_INVALID = -32602


class Methods:
    """Answers requests about one machine, one at a time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._store = machine.store
        self._snapshots: list[int] = []
        self._methods: dict[str, Callable[..., object]] = {
            "web3_clientVersion": lambda: "fedmeta embedded chain",
            "net_version": lambda: str(machine.chain_id),
            "eth_chainId": lambda: quantity(machine.chain_id),
            "eth_syncing": lambda: False,
            "eth_accounts": list,
            "eth_blockNumber": lambda: quantity(machine.number),
            "eth_gasPrice": lambda: quantity(base_fee(machine.header(machine.number)) + _TIP),
            "eth_maxPriorityFeePerGas": lambda: quantity(_TIP),
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": lambda account, block="latest": quantity(
                self._state(block).get_balance(_address(account))
            ),
            "eth_getTransactionCount": lambda account, block="latest": quantity(
                self._state(block).get_nonce(_address(account))
            ),
            "eth_getCode": lambda account, block="latest": data(
                self._state(block).get_code(_address(account))
            ),
            "eth_getStorageAt": lambda account, slot, block="latest": data(
                self._state(block).get_storage(_address(account), _int(slot)).to_bytes(32)
            ),
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getTransactionByHash": lambda digest: self._store.transaction(_hash(digest)),
            "eth_getTransactionReceipt": lambda digest: self._store.receipt(_hash(digest)),
            "eth_getLogs": self._logs,
            "eth_call": lambda call, block="latest": data(
                machine.call(_call(call), self._number(block))
            ),
            "eth_estimateGas": lambda call, block="latest": quantity(
                machine.estimate(_call(call), self._number(block))
            ),
            "eth_sendRawTransaction": lambda raw: machine.submit(_bytes(raw)),
            "evm_increaseTime": lambda seconds: machine.advance(_int(seconds)),
            "evm_setNextBlockTimestamp": lambda when: machine.set_next_timestamp(_int(when)),
            "evm_mine": self._mine,
            "evm_snapshot": self._snapshot,
            "evm_revert": self._revert,
        }

    def answer(self, method: str, params: Sequence[object]) -> Json:
        """Return the reply to one request: a dict with ``result`` or ``error``."""
        try:
            function = self._methods.get(method)
            if function is None:
                raise Fault(-32601, f"the method {method} does not exist")
            try:
                inspect.signature(function).bind(*params)
            except TypeError as error:
                raise Fault(_INVALID, f"{method}: {error}") from None
            return {"result": function(*params)}
        except Fault as fault:
            shown: Json = {"code": fault.code, "message": fault.message}
            return {"error": shown if fault.data is None else {**shown, "data": data(fault.data)}}

    def _number(self, block: object) -> int:
        if block in _LATEST:
            return self._machine.number
        return 0 if block == "earliest" else _int(block)

    def _state(self, block: object) -> StateAPI:
        return self._machine.state(self._number(block))

    def _block_by_number(self, block: object, full: bool = False) -> Json | None:
        return self._full(self._store.block("number", self._number(block)), full)

    def _block_by_hash(self, digest: object, full: bool = False) -> Json | None:
        return self._full(self._store.block("hash", _hash(digest)), full)

    def _full(self, block: Json | None, full: bool) -> Json | None:
        if block and full:
            block["transactions"] = [self._store.transaction(digest) for digest in block["transactions"]]
        return block

    def _fee_history(self, count: object, newest: object, percentiles: Sequence[object] = ()) -> Json:
        last = self._number(newest)
        first = max(last - _int(count) + 1, 0)
        headers = [self._machine.header(number) for number in range(first, last + 1)]
        fees = [quantity(base_fee(header)) for header in headers]
        return {
            "oldestBlock": quantity(first),
            "baseFeePerGas": [*fees, fees[-1]],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
            "reward": [[quantity(_TIP)] * len(percentiles)] * len(headers),
        }

    def _logs(self, wanted: object) -> list[Json]:
        if not isinstance(wanted, Mapping):
            raise Fault(_INVALID, "a filter must be an object")
        first = self._number(wanted.get("fromBlock", "latest"))
        last = self._number(wanted.get("toBlock", "latest"))
        if "blockHash" in wanted:
            block = self._store.block("hash", _hash(wanted["blockHash"]))
            if block is None:
                raise Fault(-32000, "unknown block")
            first = last = _int(block["number"])
        addresses = wanted.get("address") or []
        addresses = [addresses] if isinstance(addresses, str) else addresses
        topics = wanted.get("topics") or []
        return [
            log for log in self._store.logs(first, last, addresses) if _matches(log["topics"], topics)
        ]

    def _mine(self) -> str:
        self._machine.mine()
        return "0x0"

    def _snapshot(self) -> str:
        self._snapshots.append(self._machine.number)
        return quantity(len(self._snapshots))

    def _revert(self, snapshot: object) -> bool:
        index = _int(snapshot) - 1
        if not 0 <= index < len(self._snapshots):
            return False
        self._machine.rewind(self._snapshots[index])
        del self._snapshots[index:]
        return True


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
        raise Fault(_INVALID, "a call must be an object")
    return Call(
        sender=_address(call["from"]) if call.get("from") else bytes(20),
        to=_address(call["to"]) if call.get("to") else b"",
        data=_bytes(call.get("input") or call.get("data") or "0x"),
        value=_int(call.get("value") or 0),
        gas=_int(call.get("gas") or 0),
    )


def _int(value: object) -> int:
    if isinstance(value, int):
        return value
    try:
        return int(str(value), 16)
    except ValueError:
        raise Fault(_INVALID, f"not a quantity: {value!r}") from None


def _bytes(value: object) -> bytes:
    text = str(value)
    try:
        return bytes.fromhex(text[2:] if text.startswith("0x") else "?")
    except ValueError:
        raise Fault(_INVALID, f"not data: {text[:80]!r}") from None


def _hash(value: object) -> str:
    return data(_bytes(value))


def _address(value: object) -> Any:
    try:
        return from_address(str(value))
    except ValueError as error:
        raise Fault(_INVALID, str(error)) from None
