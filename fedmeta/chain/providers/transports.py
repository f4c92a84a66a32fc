"""JSON-RPC over HTTP and WebSocket."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from fedmeta.chain.errors import BusyError, ChainDownError, NoAnswerError
from fedmeta.chain.options import shown
from fedmeta.chain.providers.base import Call, Reply, decode, encode

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
_THREADS = 4
_BUSY = (429, 503)


class HttpTransport:
    """A node at an http(s) URL.

    Nothing is sent twice: whether a request is to be repeated is for the caller to say.

    Args:
        url: Of the node; ``user:password@`` is sent as basic authentication.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        parts = urlsplit(url)
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if parts.username is not None:
            self._headers |= urllib3.make_headers(basic_auth=f"{parts.username}:{parts.password or ''}")
            self._url = url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)
        self._pool = _pool(parts.scheme, parts.hostname or "")

    def send(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the replies to `calls` in order, in one round trip.

        Raises:
            ChainDownError: If there is no answer, or none that is JSON-RPC, or the node is busy.
        """
        try:
            response = self._pool.request("POST", self._url, body=encode(calls), headers=self._headers)
        except HTTPError as error:
            raise ChainDownError(f"no node answers at {self.name}: {_reason(error)}") from None
        if response.status in _BUSY:
            after = _seconds(response.headers.get("Retry-After"))
            raise BusyError(
                f"{self.name} answers with HTTP status {response.status} and no JSON-RPC", after
            )
        replies = decode(response.data, len(calls))
        if replies is None:
            raise NoAnswerError(
                f"{self.name} answers with HTTP status {response.status} and no JSON-RPC"
            )
        return replies

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
    proxy = getproxies().get(scheme)
    if proxy and not proxy_bypass(host) and host not in ("localhost", "127.0.0.1", "::1"):
        return urllib3.ProxyManager(proxy, maxsize=_THREADS, retries=False, timeout=timeout)
    return urllib3.PoolManager(maxsize=_THREADS, retries=False, timeout=timeout)


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 if none."""
    try:
        return urllib3.Retry().parse_retry_after(retry_after or "0")
    except InvalidHeader:
        return 0.0


def _reason(error: HTTPError) -> str:
    """Return why there was no answer, without urllib3's objects and the URL in its messages."""
    name = type(error).__name__
    known = {
        "NewConnectionError": "connection refused",
        "NameResolutionError": "there is no such host",
        "ConnectTimeoutError": f"no connection within {CONNECT_SECONDS:g} s",
        "ReadTimeoutError": f"no answer within {ANSWER_SECONDS:g} s",
        "ProtocolError": "the connection was closed",
        "SSLError": "its certificate is not accepted",
        "ProxyError": "the proxy does not let us through",
    }
    return known.get(name, name)


_MOST_BYTES = 2**26


class WebSocketTransport:
    """A node at a ws(s) URL; connects when first used, and again after the connection was lost.

    Args:
        url: Of the node.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        self._url = url
        self._guard = threading.Lock()
        self._open = ExitStack()
        self._connection: ClientConnection | None = None

    def send(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the replies to `calls` in order, in one round trip.

        Raises:
            ChainDownError: If there is no answer, or none that is JSON-RPC.
        """
        with self._guard:
            try:
                connection = self._connected()
                connection.send(encode(calls).decode())
                replies = decode(connection.recv(ANSWER_SECONDS), len(calls))
            except (OSError, WebSocketException) as error:
                # What comes in later would be taken for the answer to the next request.
                self._drop()
                reason = (
                    f"no answer within {ANSWER_SECONDS:g} s"
                    if isinstance(error, TimeoutError)
                    else error
                )
                raise ChainDownError(f"no node answers at {self.name}: {reason}") from None
        if replies is None:
            raise NoAnswerError(f"{self.name} does not answer with JSON-RPC")
        return replies

    def close(self) -> None:
        """Close the connection."""
        with self._guard:
            self._drop()

    def _connected(self) -> ClientConnection:
        if self._connection is None:
            self._connection = self._open.enter_context(
                connect(self._url, open_timeout=CONNECT_SECONDS, max_size=_MOST_BYTES, compression=None)
            )
        return self._connection

    def _drop(self) -> None:
        self._connection = None
        self._open.close()
