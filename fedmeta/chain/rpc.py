"""A web3 middleware that converts a node's failures to `fedmeta.chain.errors`."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import requests
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader
from web3.exceptions import Web3Exception
from web3.middleware import Web3Middleware
from web3.types import RPCEndpoint, RPCResponse
from websockets.exceptions import WebSocketException

from fedmeta.chain import urls
from fedmeta.chain.contracts import explain_revert
from fedmeta.chain.errors import (
    BusyError,
    ChainDownError,
    ChainError,
    NoAnswerError,
    RpcError,
)

BUSY_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts while a node is busy."""
LONGEST_WAIT = 20.0
"""Longest wait in seconds, whatever the node asks for."""

_BUSY_STATUS = (429, 503)
_BUSY = re.compile(r"rate.?limit|too many requests|requests? (limit|rate|per)|compute units", re.I)

Call = tuple[str, Sequence[object]]
Reply = dict[str, Any]


class NodeErrors(Web3Middleware):
    """Raises `ChainError`s for failures, and retries while a node is busy.

    A batch holds the error of each failed call in its place. After a node refuses a batch, its calls are
    sent one by one.
    """

    _one_by_one = False

    def wrap_make_request(self, make_request: Any) -> Any:
        """Wrap the provider's single requests."""

        def ask(method: RPCEndpoint, params: Any) -> RPCResponse:
            reply = self._answers([(method, params)], lambda calls: [make_request(*calls[0])])[0]
            if error := reply.get("error"):
                raise to_error(error)
            return reply  # type: ignore[return-value]

        return ask

    def wrap_make_batch_request(self, make_batch_request: Any) -> Any:
        """Wrap the provider's batches."""

        def ask(calls: Sequence[Call]) -> list[Reply]:
            return self._answers(calls, lambda some: self._batch(some, make_batch_request))

        return ask

    def _answers(self, calls: Sequence[Call], ask: Callable[[list[Call]], list[Any]]) -> list[Reply]:
        """Return the replies to `calls`; retry those that a busy node rejected, a few times."""
        replies: dict[int, Reply] = {}
        left = list(range(len(calls)))
        for pause in (*BUSY_PAUSES, None):
            try:
                answers = self._told(partial(ask, [calls[place] for place in left]))
                replies |= dict(zip(left, map(self._checked, answers), strict=True))
                left = [place for place in left if _is_busy(replies[place])]
                if not left:
                    break
                busy = BusyError(f"{self._name}: {replies[left[0]]['error']['message']}")
            except BusyError as error:
                busy = error
            if pause is None:
                raise busy
            time.sleep(max(pause, min(busy.after, LONGEST_WAIT)))
        return [replies[place] for place in range(len(calls))]

    def _batch(self, calls: list[Call], make_batch_request: Any) -> list[Any]:
        """Return the replies to several calls, one by one if the node takes no batches."""
        if len(calls) > 1 and not self._one_by_one:
            with suppress(NoAnswerError):
                replies = self._told(partial(make_batch_request, calls))
                if (ordered := _in_order(replies, len(calls))) is not None:
                    return ordered
                if isinstance(replies, Mapping) and _is_busy(replies):
                    return [replies] * len(calls)
        single: Any = self._w3.provider.make_request
        replies = [self._told(partial(single, *call)) for call in calls]
        self._one_by_one = self._one_by_one or len(calls) > 1
        return replies

    @property
    def _name(self) -> str:
        provider: Any = self._w3.provider
        return str(getattr(provider, "where", None) or provider.name)

    def _checked(self, reply: Any) -> Reply:
        if not isinstance(reply, Mapping) or not ("result" in reply or "error" in reply):
            raise NoAnswerError(f"{self._name} answers with no JSON-RPC")
        what = "result" if reply.get("error") is None else "error"
        return {"jsonrpc": "2.0", "id": 0, what: reply.get(what)}

    def _told(self, ask: Callable[[], Any]) -> Any:
        """Call `ask`, converting its errors."""
        try:
            return ask()
        except ChainError:
            raise
        except requests.HTTPError as error:
            return self._from_status(error.response)
        except (requests.RequestException, OSError, Web3Exception, WebSocketException) as error:
            raise ChainDownError(f"no node answers at {self._name}: {_reason(error)}") from None
        except (ValueError, RecursionError):
            raise NoAnswerError(f"{self._name} answers with no JSON-RPC") from None

    def _from_status(self, response: Any) -> Any:
        said = f"{self._name} answers with HTTP status {response.status_code} and no JSON-RPC"
        if response.status_code in _BUSY_STATUS:
            raise BusyError(said, _seconds(response.headers.get("Retry-After")))
        try:
            return response.json()
        except (ValueError, RecursionError):
            raise NoAnswerError(said) from None


def _in_order(replies: Any, count: int) -> list[Any] | None:
    """Return the replies in the order of their calls; None if some are missing."""
    if not isinstance(replies, list) or len(replies) != count:
        return None
    by_id: dict[Any, Any] = {r.get("id"): r for r in replies if isinstance(r, Mapping)}
    if not all(isinstance(one, int) for one in by_id):
        return None
    first = min(by_id, default=0)
    ordered = [by_id.get(first + place) for place in range(count)]
    return None if None in ordered else ordered


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header, given as a number or a date; 0 if none."""
    try:
        return Retry().parse_retry_after(retry_after or "0")
    except InvalidHeader:
        return 0.0


def _reason(error: BaseException) -> str:
    """Return why there was no answer, without the object dumps and URLs of the libraries' messages."""
    known = {
        "ConnectTimeout": f"no connection within {urls.CONNECT_SECONDS:g} s",
        "ReadTimeout": f"no answer within {urls.ANSWER_SECONDS:g} s",
        "TimeExhausted": f"no answer within {urls.ANSWER_SECONDS:g} s",
        "SSLError": "its certificate is not accepted",
        "ProxyError": "the proxy does not let us through",
        "NameResolutionError": "there is no such host",
        "gaierror": "there is no such host",
        "NewConnectionError": "connection refused",
        "ConnectionRefusedError": "connection refused",
        "TimeoutError": f"no connection within {urls.CONNECT_SECONDS:g} s",
        "ProtocolError": "the connection was closed",
        "ConnectionClosedError": "the connection was closed",
    }
    while True:
        name = type(error).__name__
        if name in known:
            return known[name]
        inner = [error.__cause__, getattr(error, "reason", None), *error.args[:1]]
        below = next((one for one in inner if isinstance(one, BaseException)), None)
        if below is None:
            return name
        error = below


def _is_busy(reply: Mapping[str, Any]) -> bool:
    error = reply.get("error")
    if not isinstance(error, Mapping):
        return False
    # EIP-1474's "limit exceeded" is ambiguous: some nodes use it for block ranges that are too long.
    return error.get("code") == _BUSY_STATUS[0] or bool(_BUSY.search(str(error.get("message"))))


def to_error(error: Any) -> ChainError:
    """Convert a JSON-RPC error of py-evm, Anvil, Ganache, Geth or another node."""
    if not isinstance(error, Mapping):
        return RpcError(0, str(error))
    code = error.get("code")
    message = " ".join(str(error.get("message", "unknown error")).split())
    data = _revert_data(error.get("data"))
    if code == 3 or data or "revert" in message.lower():
        return explain_revert(data)
    return RpcError(code if isinstance(code, int) else 0, message)


def _revert_data(value: Any) -> bytes:
    """Extract the revert data: text (Anvil, Geth, Ganache), or in an object (Ganache, Hardhat)."""
    if isinstance(value, Mapping):
        return _revert_data(value.get("result") or value.get("data"))
    text = str(value or "").removeprefix("Reverted ")
    try:
        return bytes.fromhex(text[2:]) if text.startswith("0x") else b""
    except ValueError:
        return b""
