"""web3's providers for a node's URL, and a web3 middleware that tells their failures alike.

Whatever the node or the library under it, what went wrong is one of `fedmeta.chain.errors`.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import requests
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader
from web3 import HTTPProvider, IPCProvider, WebSocketProvider
from web3.exceptions import Web3Exception
from web3.middleware import Web3Middleware
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse
from websockets.exceptions import WebSocketException

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
"""Seconds between the attempts to ask a node that is busy."""
LONGEST_WAIT = 20.0
"""Seconds that we wait at most, however long it asks us to."""

_MOST_BYTES = 2**26
_AT_ONCE = 100
_BUSY_STATUS = (429, 503)
_BUSY = re.compile(r"rate.?limit|too many requests|requests? (limit|rate|per)|compute units", re.I)

Call = tuple[str, Sequence[object]]
Reply = dict[str, Any]


class OwnProvider(Protocol):
    """A web3 provider that holds something to be let go of.

    Attributes:
        name: What messages call the node; without anything secret.
    """

    name: str

    def close(self) -> None:
        """Let go of the node; if it is ours, stop it with its state saved. Twice is fine."""
        ...


class _Session(requests.Session):
    """requests' session for posts to one URL with the same headers.

    They are prepared once: to prepare them anew takes a quarter of the time of a call to a node nearby.
    """

    _ready: requests.PreparedRequest | None = None

    def post(self, url: Any, data: Any = None, *_: Any, **settings: Any) -> requests.Response:
        """Send one POST request."""
        headers = settings.pop("headers", None)
        if self._ready is None:
            self._ready = self.prepare_request(requests.Request("POST", url, headers=headers))
            self._fixed = self.merge_environment_settings(url, {}, False, None, None)
        prepared = self._ready.copy()
        prepared.prepare_cookies(self.cookies)
        prepared.prepare_body(data, None)
        return self.send(prepared, **{**self._fixed, **settings})


class Http(HTTPProvider):
    """web3's `HTTPProvider` with our time limits.

    Nothing is sent twice, no redirect is followed, and no file with passwords is looked at (requests
    would take those of ``~/.netrc`` for whatever host a config names).

    Args:
        url: Of the node; ``user:password@`` is sent as basic authentication.
        name: What messages call it; by default the URL without what may be secret.
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
        """Return what the node answers to a batch; web3 would sort replies that lack ids as well."""
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
            # web3 would leave its own half of the socket open.
            raise NoNodeError(f"no node answers at {url}: there is no such socket")
        super().__init__(path, timeout=int(ANSWER_SECONDS))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            held: Any = self._socket
            if held.sock:
                held.sock.close()
            held.sock = None


class _Listener(WebSocketProvider):
    def _raise_stray_errors_from_cache(self) -> None:
        # web3 ends its listener at an error's reply; ours is told to whoever asked.
        pass


class WebSocket(JSONBaseProvider):
    """web3's `WebSocketProvider`, which is asynchronous alone, for code that is not.

    It connects when first used, and again after the connection was lost.

    Args:
        url: Of the node.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.name = shown(url)
        self._url = url
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: WebSocketProvider | None = None

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the reply to one request."""
        return self._ask([(method, params)])[0]

    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        """Return the replies to several requests, which are sent without waiting for one another."""
        parts = range(0, len(batch_requests), _AT_ONCE)
        return [reply for at in parts for reply in self._ask(batch_requests[at : at + _AT_ONCE])]

    def _ask(self, calls: Sequence[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        async def answers() -> list[RPCResponse]:
            socket = await self._connected()
            return await asyncio.gather(*(socket.make_request(*call) for call in calls))

        with self._guard:
            try:
                replies: list[RPCResponse] = self._run(answers())
                return replies
            except BaseException:
                # What comes in later would be taken for the answer to the next request.
                self._drop()
                raise

    async def _connected(self) -> WebSocketProvider:
        if self._open is None:
            limits = {"open_timeout": CONNECT_SECONDS, "max_size": _MOST_BYTES, "compression": None}
            socket = _Listener(
                self._url, limits, True, request_timeout=ANSWER_SECONDS, max_connection_retries=1
            )
            await socket.connect()
            self._open = socket
        return self._open

    def _run(self, work: Awaitable[Any]) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()  # type: ignore[arg-type]

    def _drop(self) -> None:
        if self._open is not None:
            with suppress(Exception):
                self._run(self._open.disconnect())
            self._open = None

    def close(self) -> None:
        """Close the connection."""
        with self._guard:
            self._drop()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
            self._loop = None


def provider_at(url: str) -> JSONBaseProvider:
    """Return web3's provider for a URL: http, https, ws, wss or ipc."""
    scheme = url.partition("://")[0]
    kind = Http if scheme.startswith("http") else WebSocket if scheme.startswith("ws") else Ipc
    return kind(url)


class NodeErrors(Web3Middleware):
    """Raises `ChainError`s for what goes wrong, and waits a little for a node that is busy.

    A batch has the error in its place for each call that failed. A node that refuses batches is asked
    one by one from then on.
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
        """Return the replies to `calls`; what a busy node turned away is asked for again a few times."""
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
        """Return the replies to several calls: in several round trips if the node takes no batches."""
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
        """Return what `ask` does, its failures as ours."""
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
    """Return the replies in the order of their calls; None if there is not one to each."""
    if not isinstance(replies, list) or len(replies) != count:
        return None
    by_id: dict[Any, Any] = {r.get("id"): r for r in replies if isinstance(r, Mapping)}
    if not all(isinstance(one, int) for one in by_id):
        return None
    first = min(by_id, default=0)
    ordered = [by_id.get(first + place) for place in range(count)]
    return None if None in ordered else ordered


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 if none."""
    try:
        return Retry().parse_retry_after(retry_after or "0")
    except InvalidHeader:
        return 0.0


def _reason(error: BaseException) -> str:
    """Return why there was no answer, without the objects and the URL in the libraries' messages."""
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
    # EIP-1474's "limit exceeded" is also what some nodes say of a range that is too long.
    return error.get("code") == _BUSY_STATUS[0] or bool(_BUSY.search(str(error.get("message"))))


def to_error(error: Any) -> ChainError:
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
    text = str(value or "").removeprefix("Reverted ")
    try:
        return bytes.fromhex(text[2:]) if text.startswith("0x") else b""
    except ValueError:
        return b""
