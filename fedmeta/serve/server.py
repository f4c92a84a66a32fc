"""Runs the web server, and ends it while streams are still open."""

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedmeta.errors import UsageError
from fedmeta.report.read import require_runs
from fedmeta.serve.app import make_app
from fedmeta.serve.guard import Guard
from fedmeta.serve.site import Site

_FREE_TRIES = 100
_GRACE_SECONDS = 2
MOST_CONNECTIONS = 128
ASK_SECONDS = 20.0
"""Seconds that a connection may stay open without a whole request."""
SLOWEST_SECONDS = 30.0
"""Seconds that a reader may take to accept the next piece of a response."""


class _Connection(H11Protocol):
    """A connection; it is closed if there are too many, or if no request comes."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(ASK_SECONDS, self._expect_request)

    def pause_writing(self) -> None:
        """Wait for a slow reader, but not forever."""
        super().pause_writing()
        self._patience = self.loop.call_later(SLOWEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the reader has taken what was sent."""
        super().resume_writing()
        if self._patience:
            self._patience.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up a closed connection."""
        super().connection_lost(exc)
        if self._patience:
            self._patience.cancel()

    def _expect_request(self) -> None:
        if self.cycle is None:
            self.transport.close()


def serve(root: Path, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve a folder of runs until the process is interrupted.

    Args:
        root: The folder of runs.
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        ready: Called with the page's address once it can be opened.

    Raises:
        UsageError: If there is no such folder, or the port is in use.
        KeyboardInterrupt: When it was interrupted.
    """
    server, listener, _ = make_server(root, host, port)
    with listener:
        ready(_address(host, listener.getsockname()[1]))
        server.run(sockets=[listener])


def make_server(root: Path, host: str, port: int) -> tuple[uvicorn.Server, socket.socket, Site]:
    """Return a server that is not started yet, its listening socket, and its site."""
    require_runs(root)
    listener = _listen(host, port)
    # Streams only end when they see that the server should.
    site = Site(root, lambda: server.should_exit)
    config = uvicorn.Config(
        Guard(make_app(site), host),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        http=_Connection,
    )
    server = uvicorn.Server(config)
    # The first look at a config loads modules for seconds; no reader should wait for that.
    site.runs()
    return server, listener, site


def _listen(host: str, port: int) -> socket.socket:
    try:
        return _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = _free_port(host, port)
            hint = f": choose another, such as --port {free}" if free else ": choose another"
            raise UsageError(f"port {port} of {host} is in use{hint}") from None
        reason = error.strerror or str(error)
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}") from None


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Requests may come as soon as the address is printed.
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _free_port(host: str, port: int) -> int | None:
    for other in range(port + 1, min(port + _FREE_TRIES, 65536)):
        try:
            _bind(host, other).close()
        except OSError:
            continue
        return other
    return None


def _address(host: str, port: int) -> str:
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
