"""JSON-RPC over a WebSocket."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from fedmeta.chain.errors import ChainDownError, NoAnswerError
from fedmeta.chain.providers.address import shown
from fedmeta.chain.providers.base import Call, Reply, decode, encode
from fedmeta.chain.providers.over_http import ANSWER_SECONDS, CONNECT_SECONDS

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
