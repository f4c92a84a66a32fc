"""Grids that poll for replies until a deadline, and do not wait for slow nodes."""

import contextlib
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable
from queue import Empty, SimpleQueue

from flwr.app import Message
from flwr.serverapp import Grid

from fedmeta.federation.flower import OwnGrid, Run

FIRST_WAIT, LAST_WAIT = 0.02, 0.5
"""Seconds between polls for replies; the wait grows while none arrive."""


class PolledGrid(OwnGrid):
    """Implements `send_and_receive` with `push_messages` and `pull_messages`."""

    @abstractmethod
    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived, each once."""

    @abstractmethod
    def awaits(self, message_id: str) -> bool:
        """Return whether the reply to a message that was sent may still come."""

    @abstractmethod
    def give_up(self, message_ids: Iterable[str]) -> None:
        """Stop waiting for replies to these messages."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send requests and return the replies, in order of arrival.

        Args:
            messages: Requests; as in `push_messages`.
            timeout: Seconds to wait; None: no limit.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        wait = FIRST_WAIT
        while waiting and (left := deadline - time.monotonic()) > 0:
            found = self.pull_messages(waiting)
            replies += found
            waiting = {message_id for message_id in waiting if self.awaits(message_id)}
            wait = FIRST_WAIT if found else min(2 * wait, LAST_WAIT, left)
            if waiting:
                time.sleep(wait)
        self.give_up(waiting)
        return replies


PULL_SECONDS = 1.0
"""How long to wait for pulls before they continue in the background."""
PULLS = 32
"""Most pulls at once; up to this many messages are pulled one by one."""
KEEP_SECONDS = 60.0
"""How long to keep a reply that came too late to be wanted."""


class TimeoutGrid(OwnGrid):
    """Pulls slow replies in the background, so that deadlines hold.

    Flower announces a reply before all of its arrays have arrived, and its own grid then waits minutes
    for them: a node that loses its connection during an upload would block the round for all.

    Args:
        grid: Flower's grid.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._done: SimpleQueue[tuple[set[str], list[Message] | Exception]] = SimpleQueue()
        self._under_way = 0
        self._pulled: set[str] = set()
        self._kept: dict[str, tuple[float, Message]] = {}

    def set_run(self, run: Run) -> None:
        """Set the run that the grid works for."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the grid works for."""
        return self._grid.run

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have arrived, each once.

        Raises:
            Exception: Whatever the grid raised since the last call.
        """
        asked = set(message_ids)
        before = self._under_way
        # Two pulls of one reply would steal its arrays from each other.
        self._start(sorted(asked - self._pulled - self._kept.keys()))
        self._collect(before)
        return [self._kept.pop(message_id)[1] for message_id in sorted(asked & self._kept.keys())]

    def _start(self, message_ids: list[str]) -> None:
        """Pull replies in as many parts as allowed, so that a slow one delays few others."""
        free = PULLS - self._under_way
        if not message_ids or not free:
            return
        size = math.ceil(len(message_ids) / free)
        for first in range(0, len(message_ids), size):
            part = set(message_ids[first : first + size])
            self._pulled |= part
            self._under_way += 1
            threading.Thread(target=self._pull, args=(part,), name="pull", daemon=True).start()

    def _pull(self, message_ids: set[str]) -> None:
        try:
            self._done.put((message_ids, list(self._grid.pull_messages(message_ids))))
        except Exception as error:
            # Raised in the next `pull_messages`.
            self._done.put((message_ids, error))

    def _collect(self, before: int) -> None:
        """Collect the results of pulls, and wait a little while more than `before` are under way.

        A late reply may belong to the next caller, so it is kept until then.
        """
        now = time.monotonic()
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept[0] < KEEP_SECONDS}
        deadline = now + PULL_SECONDS
        with contextlib.suppress(Empty):
            while True:
                left = deadline - time.monotonic() if self._under_way > before else 0.0
                message_ids, came = self._done.get(timeout=max(0.0, left))
                self._under_way -= 1
                self._pulled -= message_ids
                if isinstance(came, Exception):
                    raise came
                for reply in came:
                    self._kept[reply.metadata.reply_to_message_id] = (now, reply)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send requests and return the replies, with Flower's own waiting."""
        return self._grid.send_and_receive(messages, timeout=timeout)
