"""Delivers replies late, twice or never by plan, in real or simulated time."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from typing_extensions import override

from fedmeta.federation.client import read_request
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.engines.timeouts import PolledGrid
from fedmeta.federation.engines.vector.grid import FIRST_NODE, VectorGrid
from fedmeta.federation.faults.plan import AWAY, Fault, FaultPlan
from fedmeta.federation.flower import Run, RunGrid

ON_THE_WAY = ("late", "twice", *AWAY)
"""Kinds that affect the delivery of a reply, not its content."""


@dataclass(frozen=True)
class _Sent:
    """A request whose reply is to meet a fault."""

    fault: Fault
    since: float


class FaultyDelivery(PolledGrid):
    """A directory whose replies are late, doubled or lost by plan.

    Replies are held where they arrive. A client that slept instead would block its worker or node, and
    delay the other clients there. The server waits for held and lost replies as for any other, until its
    deadline.

    Args:
        directory: Connects to the clients.
        faults: The plan; kinds that change a reply's content are left to `fault_mod`.
    """

    def __init__(self, directory: NodeDirectory, faults: FaultPlan) -> None:
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
        """Send messages, and note whose replies will meet a fault; drop what earlier ones left."""
        for kept in (self._sent, self._held, self._lost):
            kept.clear()
        requests: list[Message] = []

        def noted() -> Iterator[Message]:
            # Requests may be a generator, which the grid reads after updating its list of nodes.
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
        """Return the replies that have arrived according to the plan."""
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
        """Return the copies of a reply that are delivered at once."""
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


class SimulatedDelivery(RunGrid):
    """A `VectorGrid` whose replies are late, doubled or lost by plan, in simulated time without waiting.

    A client that moves comes back under another node id. Faulty clients stay in the stack and are
    computed too, so that one client's fault does not change a bit of the others' updates.

    Args:
        grid: Computes the clients.
        faults: The plan.
        first_round: The first round to be requested.
    """

    def __init__(self, grid: VectorGrid, faults: FaultPlan, first_round: int = 1) -> None:
        super().__init__(grid.run)
        self._grid = grid
        self._faults = faults
        self._clients = len(grid.learner.workload.population)
        self._next_round = first_round

    @override
    def get_node_ids(self) -> Sequence[int]:
        """Return the nodes of all clients, under their current ids."""
        return [self.node_of(client) for client in range(self._clients)]

    def node_of(self, client: int) -> int:
        """Return the node that holds partition `client` in the next round."""
        return self._node_in(self._next_round, client)

    def _node_in(self, round_: int, client: int) -> int:
        return FIRST_NODE + client + self._clients * self._faults.moves(round_, client)

    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds, or held before it moved."""
        return self._grid.client_of(node)

    def arrival(self, round_: int, client: int) -> float | None:
        """Return when the reply of a client arrives, in seconds after the request; None: never."""
        fault = self._faults.due(round_, client)
        if fault and fault.kind in AWAY:
            return None
        return fault.seconds if fault else 0.0

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages to the clients' current nodes; their replies meet no faults."""
        return self._grid.push_messages(self._arriving(messages, self._next_round))

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer pushed messages, each once."""
        return self._grid.pull_messages(message_ids)

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies by partition id, without those that are lost or arrive after `timeout`."""
        requests = list(messages)
        if not requests or requests[0].metadata.message_type != MessageType.TRAIN:
            arriving = self._arriving(requests, self._next_round)
            return self._grid.send_and_receive(arriving, timeout=timeout)
        round_ = read_request(requests[0])[1]
        self._next_round = round_ + 1
        replies = self._grid.send_and_receive(self._arriving(requests, round_), timeout=timeout)
        return self._on_time(replies, round_, math.inf if timeout is None else timeout)

    def _arriving(self, messages: Iterable[Message], round_: int) -> Iterator[Message]:
        """Yield the messages to clients' nodes of a round; others are lost."""
        for message in messages:
            node = message.metadata.dst_node_id
            client = self.client_of(node)
            if client is not None and node == self._node_in(round_, client):
                yield message

    def _on_time(self, replies: Iterable[Message], round_: int, timeout: float) -> Iterator[Message]:
        for reply in replies:
            client = self.client_of(reply.metadata.src_node_id)
            if client is None:
                continue
            arrival = self.arrival(round_, client)
            if arrival is None or arrival > timeout:
                continue
            yield reply
            fault = self._faults.due(round_, client)
            if fault and fault.kind == "twice":
                yield reply


def with_faults(grid: VectorGrid | NodeDirectory, faults: FaultPlan, first_round: int = 1) -> Grid:
    """Return a grid on which replies meet the faults of a plan.

    Args:
        grid: Connects to the clients; on a `VectorGrid` they may move.
        faults: The plan.
        first_round: The first round to be requested; only used with a `VectorGrid`.
    """
    if isinstance(grid, VectorGrid):
        return SimulatedDelivery(grid, faults, first_round)
    return FaultyDelivery(grid, faults)
