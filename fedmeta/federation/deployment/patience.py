"""A grid whose slow replies hold nobody up."""

import threading
from collections.abc import Iterable
from queue import Empty, SimpleQueue

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmeta.federation.flower import Run

PULL_SECONDS = 1.0
"""How long a pull is waited for before it goes on in the background."""
PULLS = 8
"""How many may be in the background at once."""


class PatientGrid(Grid):
    """Pulls in the background what does not come at once, so that deadlines are kept.

    Flower announces a reply before all of its arrays have arrived, and its own grid then waits for them
    for minutes: a node that is cut off in the middle of an upload would stop the round of all.

    Args:
        grid: Flower's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._done: SimpleQueue[list[Message] | Exception] = SimpleQueue()
        self._under_way = 0

    def set_run(self, run: Run) -> None:
        """Set the run that the grid works for."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the grid works for."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are here, to these or to earlier messages, each once.

        Raises:
            Exception: Whatever the grid raised since the last time.
        """
        if self._under_way < PULLS:
            self._under_way += 1
            work = (set(message_ids),)
            threading.Thread(target=self._pull, args=work, name="pull", daemon=True).start()
        found: list[Message] = []
        seconds = PULL_SECONDS
        while True:
            try:
                came = self._done.get(timeout=seconds)
            except Empty:
                return found
            self._under_way -= 1
            if isinstance(came, Exception):
                raise came
            found += came
            seconds = 0.0

    def _pull(self, message_ids: set[str]) -> None:
        try:
            self._done.put(list(self._grid.pull_messages(message_ids)))
        except Exception as error:
            # The one that asks next is told.
            self._done.put(error)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies to messages, as Flower's grid waits for them."""
        return self._grid.send_and_receive(messages, timeout=timeout)
