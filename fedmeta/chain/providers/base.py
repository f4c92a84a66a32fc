"""A chain behind JSON-RPC, its errors normalised in one place."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

from fedmeta.chain.contracts import explain_revert
from fedmeta.chain.errors import BusyError, ChainError, NoAnswerError, RpcError

BUSY_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the attempts to ask a node that is busy."""
LONGEST_WAIT = 20.0
"""Seconds that we wait at most, however long it asks us to."""
_TOO_MANY = 429
_BUSY = re.compile(r"rate.?limit|too many requests|requests? (limit|rate|per)|compute units", re.I)

Call = tuple[str, Sequence[object]]
Reply = dict[str, Any]


class Transport(Protocol):
    """What carries JSON-RPC requests; a reply is the dict with ``result`` or ``error``.

    Attributes:
        name: What messages call the node; without anything secret.
    """

    name: str

    def send(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the replies to `calls` in order, in one round trip; may be called by several threads.

        Raises:
            ChainDownError: If the node did not answer.
        """
        ...

    def close(self) -> None:
        """Let go of the node; if it is ours, stop it with its state saved."""
        ...


class Chain:
    """One chain; calls may come from several threads.

    Args:
        transport: How to reach its node.

    Attributes:
        name: What messages call the node.
        chain_id: As the node says.
        genesis: Hash of block 0, 32 bytes: which chain of that id it is.

    Raises:
        ChainDownError: If the node does not answer.
        ChainError: If what answers is no Ethereum node.
    """

    _one_by_one = False

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.name = transport.name
        identity = self.batch([("eth_chainId", ()), ("eth_getBlockByNumber", ("0x0", False))])
        for answer in identity:
            if isinstance(answer, ChainError):
                raise answer
        try:
            self.chain_id = int(identity[0], 16)
            self.genesis = bytes.fromhex(identity[1]["hash"][2:])
        except (TypeError, ValueError, KeyError):
            raise RpcError(0, f"{self.name} is no Ethereum node") from None

    def request(self, method: str, params: Sequence[object] = ()) -> Any:
        """Return the result of one JSON-RPC call (quantities and data are 0x text).

        Raises:
            ChainDownError: The node did not answer in time.
            RevertedError: A contract refused; its custom error decoded.
            RpcError: The node refused.
        """
        answer = self.batch([(method, params)])[0]
        if isinstance(answer, ChainError):
            raise answer
        return answer

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of several calls, in one round trip.

        A call that failed has its `ChainError` in its place.

        Raises:
            ChainDownError: The node did not answer in time.
        """
        if not calls:
            return []
        return [_outcome(reply) for reply in self._ask(calls)]

    def _ask(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the replies to `calls`; what a busy node turned away is asked for again a few times."""
        replies: dict[int, Reply] = {}
        left = list(range(len(calls)))
        for pause in (*BUSY_PAUSES, None):
            try:
                answers = self._send([calls[place] for place in left])
                replies |= dict(zip(left, answers, strict=True))
                left = [place for place in left if _is_busy(replies[place])]
                if not left:
                    break
                busy = BusyError(f"{self.name}: {replies[left[0]]['error']['message']}")
            except BusyError as error:
                busy = error
            if pause is None:
                raise busy
            time.sleep(max(pause, min(busy.after, LONGEST_WAIT)))
        return [replies[place] for place in range(len(calls))]

    def _send(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the replies to `calls`: in several round trips if the node takes no batches."""
        if len(calls) > 1 and not self._one_by_one:
            with suppress(NoAnswerError):
                replies = self._transport.send(calls)
                refused = replies[0] is replies[1] and not _is_busy(replies[0])
                if not refused:
                    return replies
        replies = [self._transport.send([call])[0] for call in calls]
        self._one_by_one = self._one_by_one or len(calls) > 1
        return replies

    def close(self) -> None:
        """Let go of the chain; if it is ours, stop it with its state saved. Twice is fine."""
        self._transport.close()

    def __enter__(self) -> "Chain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode(calls: Sequence[Call]) -> bytes:
    """Return the body of a request: an object for one call, an array for several; ids count from 0."""
    requests = [
        {"jsonrpc": "2.0", "id": index, "method": method, "params": list(params)}
        for index, (method, params) in enumerate(calls)
    ]
    return json.dumps(requests if len(requests) > 1 else requests[0]).encode()


def decode(body: bytes | str, count: int) -> list[Reply] | None:
    """Return the replies in a response's body, in the order of the calls; None if it holds none."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    if isinstance(content, Mapping) and count > 1 and "error" in content:
        # Refused as a whole: one and the same reply to all.
        return [dict(content)] * count
    replies = content if isinstance(content, list) else [content]
    if not all(
        isinstance(reply, Mapping) and ("result" in reply or "error" in reply) for reply in replies
    ):
        return None
    if count == 1:
        return None if isinstance(content, list) else [dict(content)]
    by_id = {reply.get("id"): dict(reply) for reply in replies}
    return [by_id[index] for index in range(count)] if set(by_id) == set(range(count)) else None


def _is_busy(reply: Reply) -> bool:
    error = reply.get("error")
    if not isinstance(error, Mapping):
        return False
    # EIP-1474's "limit exceeded" is also what some nodes say of a range that is too long.
    return error.get("code") == _TOO_MANY or bool(_BUSY.search(str(error.get("message"))))


def _outcome(reply: Reply) -> Any:
    error = reply.get("error")
    return _to_error(error) if error is not None else reply.get("result")


def _to_error(error: Any) -> ChainError:
    """Return our error for a JSON-RPC error of py-evm, Anvil, Ganache, Geth or their like."""
    if not isinstance(error, Mapping):
        return RpcError(0, str(error))
    code = error.get("code")
    message = " ".join(str(error.get("message", "unknown error")).split())
    data = _revert_data(error.get("data"))
    if code == 3 or data or "revert" in message.lower():
        return explain_revert(data)
    return RpcError(code if isinstance(code, int) else 0, message)


def _revert_data(value: Any) -> bytes:
    """Find the revert data: text (Anvil, Geth, Ganache), or in an object (Ganache, Hardhat)."""
    if isinstance(value, Mapping):
        return _revert_data(value.get("result") or value.get("data"))
    text = str(value or "")
    text = text.removeprefix("Reverted ")
    try:
        return bytes.fromhex(text[2:]) if text.startswith("0x") else b""
    except ValueError:
        return b""
