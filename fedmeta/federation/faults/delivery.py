"""Replies that come late, twice or not at all, on the engines whose time is real."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Message, MessageType
from typing_extensions import override

from fedmeta.federation.client import read_request
from fedmeta.federation.faults.options import AWAY
from fedmeta.federation.faults.plan import Fault, FaultPlan
from fedmeta.federation.flower import Run
from fedmeta.federation.remote.directory import Directory
from fedmeta.federation.remote.polling import PolledGrid

ON_THE_WAY = ("late", "twice", *AWAY)
"""Kinds that befall a reply on its way, whatever computed it."""


@dataclass(frozen=True)
class _Sent:
    """A request whose reply meets a fault."""

    fault: Fault
    since: float


class FaultyDelivery(PolledGrid):
    """A directory whose replies are late, doubled or lost by plan.

    It holds them where they come in. A client that slept instead would take a worker, or its whole node,
    away from everybody who is computed there, and they would be late with it. A server waits for what is
    held or lost as it does for any reply: until its deadline.

    Args:
        directory: Leads to the clients.
        faults: What goes wrong; kinds that clients play themselves are left to them.
    """

    def __init__(self, directory: Directory, faults: FaultPlan) -> None:
        self._directory = directory
        self._faults = faults
        self._sent: dict[str, _Sent] = {}
        self._held: dict[str, Message] = {}
        self._lost: set[str] = set()

    @override
    def set_run(self, run: Run) -> None:
        self._directory.set_run(run)

    @property
    @override
    def run(self) -> Run:
        return self._directory.run

    def node_of(self, client: int) -> int | None:
        """Return the node that holds partition `client`; None if it is not connected."""
        return self._directory.node_of(client)

    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds; None if it holds none of ours."""
        return self._directory.client_of(node)

    @override
    def get_node_ids(self) -> Iterable[int]:
        return self._directory.get_node_ids()

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, and note whose replies will meet a fault; what is left of earlier ones goes."""
        for kept in (self._sent, self._held, self._lost):
            kept.clear()
        requests: list[Message] = []

        def noted() -> Iterator[Message]:
            # Requests may be addressed as they are read, after the directory has looked who is there.
            for message in messages:
                requests.append(message)
                yield message

        ids = list(self._directory.push_messages(noted()))
        now = time.monotonic()
        for request in requests:
            if fault := self._fault(request):
                self._sent[request.metadata.message_id] = _Sent(fault, now)
        return ids

    def _fault(self, request: Message) -> Fault | None:
        client = self.client_of(request.metadata.dst_node_id)
        if client is None or request.metadata.message_type != MessageType.TRAIN:
            return None
        fault = self._faults.due(read_request(request)[1], client)
        return fault if fault and fault.kind in ON_THE_WAY else None

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there by plan."""
        asked = set(message_ids)
        found: list[Message] = []
        for reply in self._directory.pull_messages(asked - self._held.keys() - self._lost):
            found += self._delivered(reply)
        for message_id in asked & self._held.keys():
            sent = self._sent[message_id]
            if time.monotonic() >= sent.since + sent.fault.seconds:
                found.append(self._held.pop(message_id))
        return found

    def _delivered(self, reply: Message) -> list[Message]:
        """Return what is delivered of a reply at once."""
        message_id = reply.metadata.reply_to_message_id
        sent = self._sent.get(message_id)
        if sent is None:
            return [reply]
        if sent.fault.kind == "twice":
            return [reply, reply]
        if sent.fault.kind == "late":
            self._held[message_id] = reply
        else:
            self._lost.add(message_id)
        return []

    @override
    def awaits(self, message_id: str) -> bool:
        held = message_id in self._held or message_id in self._lost
        return held or self._directory.awaits(message_id)

    @override
    def give_up(self, message_ids: Iterable[str]) -> None:
        self._directory.give_up(message_ids)
