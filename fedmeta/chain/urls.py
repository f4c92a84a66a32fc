"""web3 providers for a node's URL."""

import os
import threading
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import requests
from web3 import HTTPProvider, IPCProvider
from web3.exceptions import TimeExhausted
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse
from websockets.sync.client import ClientConnection, connect

from fedmeta.chain.errors import NoNodeError
from fedmeta.chain.options import LOOPBACK, shown

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0

_MOST_BYTES = 2**26


class _Session(requests.Session):
    """A `requests` session for POST requests to one URL with fixed headers.

    The request is prepared once: preparing takes a fifth of the time of a call to a nearby node.
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
    """web3's `HTTPProvider` with our timeouts, without retries and redirects.

    It ignores ``~/.netrc``, whose passwords requests would send to any host that a config names.

    Args:
        url: The node's URL; ``user:password@`` is sent as basic authentication.
        name: The node's name in messages; by default the URL without secrets.
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
        """Return the node's raw answer to a batch; web3 would fail to sort replies without ids."""
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
