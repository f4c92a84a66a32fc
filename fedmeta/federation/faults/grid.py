"""The stacked grid with faults: time is simulated, so that to be hours late takes no time."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flwr.app import Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from typing_extensions import override

from fedmeta.federation.client import build_client_app, read_request
from fedmeta.federation.faults.mods import BY_MOD, fault_mod
from fedmeta.federation.faults.options import AWAY
from fedmeta.federation.faults.plan import FaultPlan
from fedmeta.federation.learner import Learner
from fedmeta.federation.signing import Signatures
from fedmeta.federation.vector.execution import Executor
from fedmeta.federation.vector.grid import FIRST_NODE, VectorGrid


class FaultyGrid(VectorGrid):
    """A `VectorGrid` on which training goes wrong by plan; evaluations are left alone.

    A faulty client keeps its place in the stack and is computed there as well: what goes wrong with one
    changes no bit of what the others send.

    Args:
        learner: The clients' side of the workload.
        executor: Where it is computed.
        mods: Flower mods by client.
        signatures: Signs in the name of each client; None: replies are not signed.
        faults: What goes wrong.
        first_round: The round that is asked first.
    """

    def __init__(  # noqa: PLR0913 (three are optional)
        self,
        learner: Learner,
        executor: Executor,
        mods: Mapping[int, Sequence[Mod]] | None = None,
        signatures: Signatures | None = None,
        *,
        faults: FaultPlan,
        first_round: int = 1,
    ) -> None:
        super().__init__(learner, executor, mods, signatures)
        self.faults = faults
        self._mods = mods or {}
        self._signatures = signatures
        self._next_round = first_round

    @override
    def get_node_ids(self) -> Sequence[int]:
        """Return the nodes of all clients, under their present ids."""
        return [self.node_of(client) for client in range(self._clients)]

    @override
    def node_of(self, client: int) -> int:
        """Return the node that holds partition `client` in the round that is asked next."""
        return self._node_in(self._next_round, client)

    def _node_in(self, round_: int, client: int) -> int:
        return FIRST_NODE + client + self._clients * self.faults.moves(round_, client)

    @override
    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds, or held before it got another id."""
        return (node - FIRST_NODE) % self._clients if node >= FIRST_NODE else None

    @override
    def arrival(self, round_: int, client: int) -> float | None:
        """Return when the reply of a client arrives, in seconds after the request; None: never."""
        fault = self.faults.due(round_, client)
        if fault and fault.kind in AWAY:
            return None
        return fault.seconds if fault else 0.0

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies by partition id, without those that are lost or come after `timeout`."""
        requests = list(messages)
        replies = super().send_and_receive(requests, timeout=timeout)
        if not requests or requests[0].metadata.message_type != MessageType.TRAIN:
            return replies
        _, round_ = read_request(requests[0])
        self._next_round = round_ + 1
        return self._delivered(replies, round_, math.inf if timeout is None else timeout)

    def _delivered(self, replies: Iterator[Message], round_: int, timeout: float) -> Iterator[Message]:
        for reply in replies:
            node = reply.metadata.src_node_id
            client = self.client_of(node)
            if client is None or node != self._node_in(round_, client):
                continue
            fault = self.faults.due(round_, client)
            arrival = self.arrival(round_, client)
            if arrival is None or arrival > timeout:
                continue
            yield reply
            if fault and fault.kind == "twice":
                yield reply

    @override
    def _own_app(self, client: int, round_: int) -> ClientApp | None:
        fault = self.faults.due(round_, client)
        if fault is None or fault.kind not in BY_MOD:
            return super()._own_app(client, round_)
        mods = [fault_mod(self.faults, self.learner), *self._mods.get(client, ())]
        return build_client_app(self.learner, mods, self._signatures)
