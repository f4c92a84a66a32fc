"""A grid like those of Flower's engines: random node ids, and replies in any order."""

import copy
import random
import time
from collections.abc import Iterable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedmeta.federation.flower import message_ids, new_context, new_run, stamp


class Nodes(Grid):
    """Nodes that join, leave and answer one message each time they are asked for replies."""

    def __init__(self, app: ClientApp, partitions: Iterable[int]) -> None:
        self.app = app
        self.random = random.Random(4)
        self.contexts: dict[int, Context] = {}
        self.ids = message_ids("message")
        self.waiting: list[Message] = []
        for partition in partitions:
            self.join(partition)

    def join(self, partition: int) -> int:
        node = self.random.getrandbits(62)
        self.contexts[node] = new_context(node, partition, 99)
        return node

    def set_run(self, run):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    run = property(lambda self: new_run())

    def create_message(self, *args, **options):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        accepted = []
        for message in messages:
            stamp(message, next(self.ids))
            if message.metadata.dst_node_id in self.contexts:
                self.waiting.append(message)
                accepted.append(message.metadata.message_id)
        return accepted

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        ready = [m for m in self.waiting if m.metadata.message_id in wanted]
        if not ready:
            return []
        message = self.random.choice(ready)
        self.waiting.remove(message)
        context = self.contexts.get(message.metadata.dst_node_id)
        # Over a network every node has its own copy of what all are sent.
        return [self.app(copy.deepcopy(message), context)] if context else []


def acquaint(grid: Grid, clients: int) -> None:
    """Look for nodes until all have said what they hold, as `wait_for_nodes` does without its sleep."""
    deadline = time.monotonic() + 60
    while len(list(grid.get_node_ids())) < clients:
        assert time.monotonic() < deadline
