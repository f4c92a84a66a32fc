"""Shares the SuperLink's grid with the training process over a local socket.

Rounds, logs and checkpoints then are where they are on every engine, and Ctrl-C, kills and resuming work
as they do there. The two processes are one user's, on one machine; they talk over a socket in a folder
that nobody else can enter.
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
"""How long the SuperLink may take to answer; Flower itself would ask again without end."""
PUSH_SECONDS = 600.0
"""How long it may take to accept messages, with the state that goes to each client."""

LOOK_SECONDS = 10.0
"""How often a borrower that waits looks whether it waits in vain."""

_LINE_ENDED = (EOFError, ConnectionError)


def lend(grid: Grid, line: str) -> None:
    """Answer for a grid until whoever borrowed it hangs up.

    Args:
        grid: Flower's, in the process of its ServerApp.
        line: Path of the socket at which the borrower listens.
    """
    # The token may have expired while this process loaded; then another one was started, and this ends.
    list(grid.get_node_ids())
    patient = TimeoutGrid(grid)
    with Client(line, family="AF_UNIX") as connection, contextlib.suppress(*_LINE_ENDED):
        connection.send(grid.run)
        while True:
            name, argument = connection.recv()
            connection.send(_answer(patient, name, argument))


def _answer(grid: Grid, name: str, argument: Any) -> Any:
    if name == "nodes":
        return list(grid.get_node_ids())
    if name == "push":
        return list(grid.push_messages(argument))
    return list(grid.pull_messages(argument))


class Desk:
    """Where a borrower waits for its grid."""

    def __init__(self, folder: Path) -> None:
        self.line = str(folder / "line")
        self._listener = Listener(self.line, family="AF_UNIX")
        self._came: Queue[Connection] = Queue()
        self._waiter = threading.Thread(target=self._wait, name="lent-grid", daemon=True)
        self._waiter.start()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._waiter.is_alive():
            # One last caller wakes whoever still waits in accept().
            with contextlib.suppress(OSError):
                Client(self.line, family="AF_UNIX").close()
        self._listener.close()

    def _wait(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._came.put(self._listener.accept())

    def borrow(self, seconds: float, check: Callable[[], None]) -> "LentGrid":
        """Wait for a ServerApp.

        Args:
            seconds: For how long.
            check: Called every `LOOK_SECONDS`; raises if none can come any more.

        Raises:
            RunError: If none came.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                return LentGrid(self._came.get(timeout=min(LOOK_SECONDS, left)))
            check()
        raise RunError(f"the SuperLink did not start its ServerApp within {seconds:g} s")


class LentGrid(RunGrid):
    """A grid in another process.

    Args:
        connection: Leads to `lend`.
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
        """Return the replies that have come, each once."""
        found: list[Message] = self._ask("pull", set(message_ids))
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> NoReturn:
        """Not for this grid: see `fedmeta.federation.engines.node_directory.Directory`."""
        raise NotImplementedError("ask through a Directory")

    def close(self) -> None:
        """Give the grid back: the ServerApp ends."""
        self._connection.close()

    def _ask(self, name: str, argument: Any = None) -> Any:
        try:
            self._connection.send((name, argument))
        except _LINE_ENDED:
            raise RunError(_ENDED) from None
        return self._hear(PUSH_SECONDS if name == "push" else ANSWER_SECONDS)

    def _hear(self, seconds: float) -> Any:
        try:
            if not self._connection.poll(seconds):
                raise RunError(f"the SuperLink has not answered for {seconds:g} s")
            return self._connection.recv()
        except _LINE_ENDED:
            raise RunError(_ENDED) from None


_ENDED = "the SuperLink ended the run: it was stopped, or it died; resume when it is up again"
