"""A grid that must be asked again and again whether replies have come, for no longer than a deadline."""

import math
import time
from abc import abstractmethod
from collections.abc import Iterable

from flwr.app import Message

from fedmeta.federation.grids import OwnGrid

FIRST_WAIT, LAST_WAIT = 0.02, 0.5
"""Seconds between two looks for replies: it grows while none come."""


class PolledGrid(OwnGrid):
    """Asks by `push_messages`, and looks for replies by `pull_messages`."""

    @abstractmethod
    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come, each once."""

    @abstractmethod
    def awaits(self, message_id: str) -> bool:
        """Return whether the reply to a message that was sent may still come."""

    @abstractmethod
    def give_up(self, message_ids: Iterable[str]) -> None:
        """Do not wait for replies to these messages any more."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies to messages, in whatever order they came.

        Args:
            messages: Requests; as in `push_messages`.
            timeout: Seconds after which nobody else is waited for; None: no limit.
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
