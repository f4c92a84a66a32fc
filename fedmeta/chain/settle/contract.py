"""A deployed contract: calls, their results, and events."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from fedmeta.chain.contracts import Artifact
from fedmeta.chain.errors import ChainError, RpcError
from fedmeta.chain.providers.base import Call, Chain

T = TypeVar("T")


class NoCodeError(ChainError):
    """There is no contract at the address (any more)."""


@dataclass(frozen=True)
class Contract:
    """A contract at an address.

    Attributes:
        chain: Where it is.
        artifact: What it is.
        address: Its address.
    """

    chain: Chain
    artifact: Artifact
    address: str

    def data(self, function: str, *arguments: object) -> bytes:
        """Return the call data of a function."""
        return self.artifact.encode(function, *arguments)

    def query(self, function: str, *arguments: object) -> Call:
        """Return the request that calls a view; for `Chain.batch` and then `result`."""
        call = {"to": self.address, "data": "0x" + self.data(function, *arguments).hex()}
        return "eth_call", (call, "latest")

    def result(self, function: str, answer: object) -> Any:
        """Return what a view returned: one value as it is, several as a tuple.

        Raises:
            NoCodeError: If there is no contract.
            ChainError: The error that stands in place of the answer.
        """
        if isinstance(answer, ChainError):
            raise answer
        data = unhex(answer)
        if not data:
            raise NoCodeError(f"there is no {self.artifact.name} at {self.address}")
        values = self.artifact.decode(function, data)
        return values[0] if len(values) == 1 else values

    def call(self, function: str, *arguments: object) -> Any:
        """Call a view; see `result`."""
        method, parameters = self.query(function, *arguments)
        return self.result(function, self.chain.request(method, parameters))

    def many(self, *functions: str) -> list[Any]:
        """Call several views without arguments in one round trip."""
        answers = self.chain.batch([self.query(function) for function in functions])
        return [self.result(f, answer) for f, answer in zip(functions, answers, strict=True)]

    def events(self, event: str, first_block: int) -> list["Event"]:
        """Return the events since a block, oldest first.

        Nodes refuse ranges that are too long for them: a refused range is asked for in halves.
        """
        last = quantity(self.chain.request("eth_blockNumber"))
        found: list[Event] = []
        ranges = [(first_block, last)] if first_block <= last else []
        while ranges:
            start, end = ranges.pop()
            try:
                found += self._events(event, start, end)
            except RpcError:
                if start == end:
                    raise
                middle = (start + end) // 2
                ranges += [(middle + 1, end), (start, middle)]
        return found

    def _events(self, event: str, start: int, end: int) -> list["Event"]:
        wanted = {
            "address": self.address,
            "topics": [self.artifact.topic(event)],
            "fromBlock": hex(start),
            "toBlock": hex(end),
        }
        logs = self.chain.request("eth_getLogs", (wanted,))
        return [_event(self.artifact.decode_log(event, log), log) for log in logs]


@dataclass(frozen=True)
class Event:
    """An event of a contract.

    Attributes:
        arguments: By name.
        transaction: Hash of the transaction that caused it.
        block_hash: Of the block that holds it.
        block_number: Of that block.
    """

    arguments: Mapping[str, Any]
    transaction: bytes
    block_hash: bytes
    block_number: int


def _event(arguments: Mapping[str, Any], log: Mapping[str, Any]) -> Event:
    return Event(
        arguments,
        unhex(log["transactionHash"]),
        unhex(log["blockHash"]),
        quantity(log["blockNumber"]),
    )


def is_past(chain: Chain, moment: int) -> bool:
    """Tell whether the chain's time has come to `moment`, in seconds since 1970.

    A chain for development makes a block when it is sent something, so that its time may stand still:
    it is asked for a block if the clock says that it is late. Any other chain refuses, and is not.
    """
    if _newest(chain) < moment <= time.time():
        with suppress(RpcError):
            chain.request("evm_mine")
    return _newest(chain) >= moment


def _newest(chain: Chain) -> int:
    return quantity(chain.request("eth_getBlockByNumber", ("latest", False))["timestamp"])


def has_code(contract: Contract) -> bool:
    """Return whether the chain holds our code at the contract's address."""
    code = unhex(contract.chain.request("eth_getCode", (contract.address, "latest")))
    return contract.artifact.matches(code)


def unhex(text: Any) -> bytes:
    """Return the bytes of 0x text."""
    return bytes.fromhex(str(text).removeprefix("0x"))


def quantity(text: Any) -> int:
    """Return the number that JSON-RPC writes as 0x text."""
    return int(str(text), 16)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in pieces of `size` at most."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
