"""Shares the SuperLink's grid with the training process over a local socket.

Rounds, logs and checkpoints are then in the same process as on every engine, and Ctrl-C, kills and
resuming work the same. Both processes belong to one user on one machine; they talk over a socket in a
private folder.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, NoReturn

from flwr.app import Message
from flwr.serverapp import Grid

from fedmeta.errors import RunError
from fedmeta.federation.engines.timeouts import TimeoutGrid
from fedmeta.federation.flower import Run, RunGrid, stamp

ANSWER_SECONDS = 60.0
"""How long the SuperLink may take to answer; Flower itself would retry forever."""
PUSH_SECONDS = 600.0
"""How long it may take to accept messages, which include the state for each client."""

CHECK_SECONDS = 10.0
"""How often a waiting `GridListener` checks that the run still exists."""

_DISCONNECTED = (EOFError, ConnectionError)


def share_grid(grid: Grid, address: str) -> None:
    """Serve a grid to the training process until that closes the connection.

    Args:
        grid: Flower's grid, in the process of its ServerApp.
        address: Path of the socket at which a `GridListener` waits.
    """
    # If the token expired while this process loaded, this raises: Flower has started another process.
    list(grid.get_node_ids())
    grid = TimeoutGrid(grid)
    with Client(address, family="AF_UNIX") as connection, contextlib.suppress(*_DISCONNECTED):
        connection.send(grid.run)
        while True:
            name, argument = connection.recv()
            connection.send(_answer(grid, name, argument))


def _answer(grid: Grid, name: str, argument: Any) -> Any:
    if name == "nodes":
        return list(grid.get_node_ids())
    if name == "push":
        return list(grid.push_messages(argument))
    return list(grid.pull_messages(argument))


class GridListener:
    """Waits for the ServerApp that shares its grid."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "grid.sock")
        self._listener = Listener(self.address, family="AF_UNIX")
        self._came: Queue[Connection] = Queue()
        self._waiter = threading.Thread(target=self._wait, name="grid-listener", daemon=True)
        self._waiter.start()

    def __enter__(self) -> "GridListener":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._waiter.is_alive():
            # A last connection wakes the thread that is still in accept().
            with contextlib.suppress(OSError):
                Client(self.address, family="AF_UNIX").close()
        self._listener.close()

    def _wait(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._came.put(self._listener.accept())

    def accept(self, seconds: float, check: Callable[[], None]) -> "RemoteGrid":
        """Wait for a ServerApp to connect.

        Args:
            seconds: How long to wait.
            check: Called every `CHECK_SECONDS`; raises if no ServerApp can connect any more.

        Raises:
            RunError: If none connected.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                return RemoteGrid(self._came.get(timeout=min(CHECK_SECONDS, left)))
            check()
        raise RunError(f"the SuperLink did not start its ServerApp within {seconds:g} s")


class RemoteGrid(RunGrid):
    """A grid in another process.

    Args:
        connection: Leads to `share_grid`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        run: Run = self._hear(ANSWER_SECONDS)
        super().__init__(run)

    def get_node_ids(self) -> list[int]:
        """Return the connected nodes."""
        found: list[int] = self._ask("nodes")
        return found

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; return the ids of those that the SuperLink took."""
        sent = list(messages)
        ids: list[str | None] = self._ask("push", sent)
        taken = [(message, id_) for message, id_ in zip(sent, ids, strict=False) if id_]
        for message, id_ in taken:
            stamp(message, id_)
        return [id_ for _, id_ in taken]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived, each once."""
        found: list[Message] = self._ask("pull", set(message_ids))
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> NoReturn:
        """Not supported: use `fedmeta.federation.engines.node_directory.NodeDirectory`."""
        raise NotImplementedError("send requests through a NodeDirectory")

    def close(self) -> None:
        """Close the connection, which ends the ServerApp."""
        self._connection.close()

    def _ask(self, name: str, argument: Any = None) -> Any:
        try:
            self._connection.send((name, argument))
        except _DISCONNECTED:
            raise RunError(_ENDED) from None
        return self._hear(PUSH_SECONDS if name == "push" else ANSWER_SECONDS)

    def _hear(self, seconds: float) -> Any:
        try:
            if not self._connection.poll(seconds):
                raise RunError(f"the SuperLink has not answered for {seconds:g} s")
            return self._connection.recv()
        except _DISCONNECTED:
            raise RunError(_ENDED) from None


_ENDED = "the SuperLink ended the run, or died; resume when it is up again"
