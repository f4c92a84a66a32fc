"""web3 providers for a node's URL, and a middleware that converts failures to `fedmeta.chain.errors`."""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import requests
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader
from web3 import HTTPProvider, IPCProvider
from web3.exceptions import TimeExhausted, Web3Exception
from web3.middleware import Web3Middleware
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from fedmeta.chain.contracts import explain_revert
from fedmeta.chain.errors import (
    BusyError,
    ChainDownError,
    ChainError,
    NoAnswerError,
    NoNodeError,
    RpcError,
)
from fedmeta.chain.options import LOOPBACK, shown

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
BUSY_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts while a node is busy."""
LONGEST_WAIT = 20.0
"""Longest wait in seconds, whatever the node asks for."""

_MOST_BYTES = 2**26
_BUSY_STATUS = (429, 503)
_BUSY = re.compile(r"rate.?limit|too many requests|requests? (limit|rate|per)|compute units", re.I)

Call = tuple[str, Sequence[object]]
Reply = dict[str, Any]


class _Session(requests.Session):
    """A `requests` session for one URL and fixed headers.

    It prepares the request once: preparing takes half the time of a call to a nearby node.
    """

    _ready: requests.PreparedRequest | None = None

    def post(self, url: Any, data: Any = None, *_: Any, **settings: Any) -> requests.Response:
        headers = settings.pop("headers", None)
        if self._ready is None:
            self._ready = self.prepare_request(requests.Request("POST", url, headers=headers))
            self._fixed = self.merge_environment_settings(url, {}, False, None, None)
        prepared = self._ready.copy()
        prepared.prepare_cookies(self.cookies)
        prepared.prepare_body(data, None)
        return self.send(prepared, **{**self._fixed, **settings})


class Http(HTTPProvider):
    """web3's `HTTPProvider` with our timeouts, without retries and redirects.

    It ignores ``~/.netrc``, whose passwords requests would send to any host that a config names.
    ``user:password@`` in the URL is sent as basic authentication. `name` is for messages.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        self.where = shown(url)
        self.name = name or self.where
        self._session = _Session()
        self._session.trust_env = False
        parts = urlsplit(url)
        proxy, host = getproxies().get(parts.scheme), parts.hostname or ""
        if proxy and host not in LOOPBACK and not proxy_bypass(host):
            self._session.proxies = {parts.scheme: proxy}
        limits = {"timeout": (CONNECT_SECONDS, ANSWER_SECONDS), "allow_redirects": False}
        super().__init__(url, limits, self._session, exception_retry_configuration=None)

    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> Any:
        """Return the node's raw answer to a batch; web3 would warn of replies without ids."""
        body = self.encode_batch_rpc_request(batch_requests)
        post = self._request_session_manager.make_post_request
        return self.decode_rpc_response(post(self.endpoint_uri, body, **self.get_request_kwargs()))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class Ipc(IPCProvider):
    """web3's `IPCProvider` for an ``ipc:///path/to/geth.ipc`` URL."""

    def __init__(self, url: str) -> None:
        self.name, path = url, urlsplit(url).path
        if not os.path.exists(path):
            # web3 would leak its socket.
            raise NoNodeError(f"no node answers at {url}: there is no such socket")
        super().__init__(path, timeout=int(ANSWER_SECONDS))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            held: Any = self._socket
            if held.sock:
                held.sock.close()
            held.sock = None


class WebSocket(JSONBaseProvider):
    """A web3 provider over one WebSocket, which web3 itself has for asyncio only.

    It connects on first use, and again after a lost connection.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.name = shown(url)
        self._url = url
        self._guard = threading.Lock()
        self._opened = ExitStack()
        self._socket: ClientConnection | None = None

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the reply to one request."""
        return self._ask(self.encode_rpc_request(method, params))

    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> Any:
        """Return the node's raw answer to a batch."""
        return self._ask(self.encode_batch_rpc_request(batch_requests))

    def _ask(self, body: bytes) -> RPCResponse:
        with self._guard:
            try:
                if self._socket is None:
                    joined = connect(
                        self._url, open_timeout=CONNECT_SECONDS, max_size=_MOST_BYTES, compression=None
                    )
                    self._socket = self._opened.enter_context(joined)
                self._socket.send(body.decode())
                return self.decode_rpc_response(self._answer(self._socket))
            except BaseException:
                # A late reply would be taken for the answer to the next request.
                self._drop()
                raise

    def _answer(self, socket: ClientConnection) -> bytes:
        try:
            return socket.recv(ANSWER_SECONDS, decode=False)
        except TimeoutError:
            raise TimeExhausted from None

    def _drop(self) -> None:
        self._socket = None
        self._opened.close()

    def close(self) -> None:
        """Close the connection."""
        with self._guard:
            self._drop()


def provider_at(url: str) -> JSONBaseProvider:
    """Return web3's provider for a URL: http, https, ws, wss or ipc."""
    scheme = url.partition("://")[0]
    kind = Http if scheme.startswith("http") else WebSocket if scheme.startswith("ws") else Ipc
    return kind(url)


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
        return lambda calls: self._answers(calls, partial(self._batch, make_batch_request))

    def _answers(self, calls: Sequence[Call], ask: Callable[[list[Call]], list[Any]]) -> list[Reply]:
        """Return the replies to `calls`; retry those that a busy node rejected, a few times."""
        replies: dict[int, Reply] = {}
        left = list(range(len(calls)))
        for pause in (*BUSY_PAUSES, None):
            try:
                answers = self._converting(partial(ask, [calls[place] for place in left]))
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

    def _batch(self, make_batch_request: Any, calls: list[Call]) -> list[Any]:
        """Return the replies to several calls, one by one if the node takes no batches."""
        if len(calls) > 1 and not self._one_by_one:
            # A faulty node leaves out ids.
            with suppress(NoAnswerError, KeyError, TypeError):
                replies = self._converting(partial(make_batch_request, calls))
                if isinstance(replies, Mapping) and _is_busy(replies):
                    return [replies] * len(calls)
                if _are_consecutive(replies := sorted(replies, key=lambda r: r["id"]), len(calls)):
                    return replies
        single: Any = self._w3.provider.make_request
        replies = [self._converting(partial(single, *call)) for call in calls]
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

    def _converting(self, ask: Callable[[], Any]) -> Any:
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


def _are_consecutive(replies: list[Any], count: int) -> bool:
    first = replies[0]["id"] if replies else 0
    return [reply["id"] for reply in replies] == list(range(first, first + count))


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header, given as a number or a date; 0 if none."""
    try:
        return Retry().parse_retry_after(retry_after or "0")
    except InvalidHeader:
        return 0.0


def _reason(error: BaseException) -> str:
    """Return why there was no answer, without the object dumps and URLs of the libraries' messages."""
    known = {
        "ConnectTimeout": f"no connection within {CONNECT_SECONDS:g} s",
        "ReadTimeout": f"no answer within {ANSWER_SECONDS:g} s",
        "TimeExhausted": f"no answer within {ANSWER_SECONDS:g} s",
        "SSLError": "its certificate is not accepted",
        "ProxyError": "the proxy does not let us through",
        "NameResolutionError": "there is no such host",
        "gaierror": "there is no such host",
        "NewConnectionError": "connection refused",
        "ConnectionRefusedError": "connection refused",
        "TimeoutError": f"no connection within {CONNECT_SECONDS:g} s",
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
