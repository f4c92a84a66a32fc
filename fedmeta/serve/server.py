"""A server on this machine that ends when it is told to, whoever is still listening."""

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from fedmeta.errors import UsageError
from fedmeta.serve.app import make_app
from fedmeta.serve.guard import Guard
from fedmeta.serve.index import require_runs
from fedmeta.serve.site import Site

_FREE_TRIES = 100
_GRACE_SECONDS = 2


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
    """Return a server that is yet to run, the socket that it is to listen on, and what it shows."""
    require_runs(root)
    listener = _listen(host, port)
    # Streams never end by themselves: they look at whether the server should.
    site = Site(root, lambda: server.should_exit)
    config = uvicorn.Config(
        Guard(make_app(site), host),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    # What is loaded at the first look at a config takes seconds, which no reader should wait.
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
        # A caller may come as soon as the address is told.
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
