"""Finds each node's partition by asking it, within a time limit."""

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedmeta.errors import UsageError
from fedmeta.federation.accounts import NONCE, PROOF, Seats
from fedmeta.federation.client import CONFIG, PARTITION
from fedmeta.federation.engines.timeouts import PolledGrid
from fedmeta.federation.flower import Run, refused

log = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
"""Seconds between checks for nodes that joined or left, while waiting for replies."""
QUERY_SECONDS = 120.0
"""Seconds after which a node that did not answer, or was refused, is queried again."""
SHORT_SECONDS = 5.0
"""Seconds after which missing nodes are logged."""


def ignore(*_: object) -> None:
    """Do nothing."""


class NodeDirectory(PolledGrid):
    """Adds partition ids to a grid whose node ids are random (see `Addresses`).

    A ``query`` asks each new node which partition it holds, and for a proof if there are `seats`. If two
    hold the same one, the first keeps it for as long as it is connected. The list of nodes is updated
    before and while waiting for replies, so a node that comes back under another id takes part again.

    Args:
        grid: Flower's grid.
        clients: Number of partitions.
        check: Called while waiting; raises if no reply can come any more.
        received: Called with a client and each of its replies.
        seats: Decides which node may hold which partition; None: any node any partition.
    """

    def __init__(
        self,
        grid: Grid,
        clients: int,
        check: Callable[[], None] = ignore,
        received: Callable[[int, Message], None] = ignore,
        seats: Seats | None = None,
    ) -> None:
        self._grid = grid
        self._clients = clients
        self._check = check
        self._received = received
        self._seats = seats
        self._nonces: dict[int, bytes] = {}
        self._turned_away: dict[int, str] = {}
        self._asked: dict[str, int] = {}
        self._asked_at: dict[int, float] = {}
        self._silent: set[int] = set()
        self._second: dict[int, int] = {}
        self._client_of: dict[int, int] = {}
        self._node_of: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._receivers: dict[str, int] = {}
        self._refreshed = -math.inf
        self._began = math.inf
        self._missing: int | None = 0

    def set_run(self, run: Run) -> None:
        """Set the run that the grid works for."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the grid works for."""
        return self._grid.run

    def node_of(self, client: int) -> int | None:
        """Return the node that holds partition `client`; None if it is not connected."""
        return self._node_of.get(client)

    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds; None if it holds none of ours."""
        return self._client_of.get(node)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes whose partition is known.

        Raises:
            UsageError: If a node says that it cannot take part, for instance because it has no data.
        """
        self._refresh()
        for node, reason in self._refused.items():
            raise UsageError(f"node {node} cannot take part: {reason}")
        return list(self._node_of.values())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; they may be a generator, read after the list of nodes is updated."""
        self._refresh()
        receivers = self._push(list(messages))
        self._receivers |= receivers
        return list(receivers)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived from the addressed nodes, each once."""
        self._check()
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self._refresh()
        found = self._grid.pull_messages(set(message_ids))
        expected = [reply for reply in found if self._is_expected(reply)]
        for reply in expected:
            self._received(self._client_of.get(reply.metadata.src_node_id, -1), reply)
        return expected

    def _push(self, messages: list[Message]) -> dict[str, int]:
        """Send messages; return the receivers of those that could be sent, by message id."""
        sent = set(self._grid.push_messages(messages))
        about = (message.metadata for message in messages)
        return {one.message_id: one.dst_node_id for one in about if one.message_id in sent}

    def _is_expected(self, reply: Message) -> bool:
        metadata = reply.metadata
        return self._receivers.pop(metadata.reply_to_message_id, None) == metadata.src_node_id

    def awaits(self, message_id: str) -> bool:
        """Return whether the reply to a message that was sent may still come."""
        return message_id in self._receivers

    def give_up(self, message_ids: Iterable[str]) -> None:
        """Stop waiting for replies to these messages."""
        for message_id in message_ids:
            self._receivers.pop(message_id, None)

    def _refresh(self) -> None:
        """Note which nodes joined or left, without waiting."""
        self._check()
        self._refreshed = time.monotonic()
        connected = set(self._grid.get_node_ids())
        self._tell_of_missing(len(connected))
        for node in [node for node in self._client_of if node not in connected]:
            self._forget(node)
        self._silent &= connected
        self._second = {node: client for node, client in self._second.items() if node in connected}
        self._refused = {node: why for node, why in self._refused.items() if node in connected}
        self._turned_away = {n: why for n, why in self._turned_away.items() if n in connected}
        self._nonces = {n: nonce for n, nonce in self._nonces.items() if n in connected}
        # A node may die while it answers and come back under the same id.
        oldest = self._refreshed - QUERY_SECONDS
        lasting = {n: at for n, at in self._asked_at.items() if n in connected and at > oldest}
        self._asked_at = lasting
        self._asked = {id_: node for id_, node in self._asked.items() if node in lasting}
        settled = self._client_of.keys() | self._silent | self._second.keys() | self._refused.keys()
        self._ask(sorted(connected - settled - lasting.keys()))
        self._hear()

    def _tell_of_missing(self, connected: int) -> None:
        """Warn while there are fewer nodes than clients, until all have been there once."""
        self._began = min(self._began, self._refreshed)
        missing = self._clients - connected
        if self._missing is None or missing <= 0:
            self._missing = None
        elif self._refreshed - self._began >= SHORT_SECONDS and self._missing != missing:
            self._missing = missing
            log.warning(
                "%d of %d nodes are connected, waiting for the others: start more SuperNodes",
                connected,
                self._clients,
            )

    def _ask(self, nodes: list[int]) -> None:
        if nodes:
            self._asked |= self._push([Message(self._query(n), n, MessageType.QUERY) for n in nodes])
            self._asked_at |= dict.fromkeys(nodes, self._refreshed)

    def _query(self, node: int) -> RecordDict:
        if self._seats is None:
            return RecordDict()
        self._nonces[node] = nonce = secrets.token_bytes(32)
        return RecordDict({CONFIG: ConfigRecord({NONCE: nonce})})

    def _hear(self) -> None:
        for reply in self._grid.pull_messages(set(self._asked)) if self._asked else ():
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if node is None or node != reply.metadata.src_node_id:
                continue
            del self._asked_at[node]
            if reply.has_content():
                self._enter(node, reply.content)
            elif (why := refused(reply)) is not None:
                self._cannot(node, why)

    def _cannot(self, node: int, why: str) -> None:
        """Note a node that answers with an error; an unknown node's error does not end the run."""
        if self._seats and not self._seats.admitted(node):
            self._turn_away(node, f"it says that it cannot take part: {why}")
            return
        log.warning("node %d cannot take part: %s", node, why)
        self._refused[node] = why

    def _turn_away(self, node: int, why: str) -> None:
        """Refuse a node; it is queried again after a while, and each reason is logged once."""
        self._asked_at[node] = self._refreshed
        if self._turned_away.get(node) != why:
            self._turned_away[node] = why
            log.warning("node %d is refused: %s", node, why)
            if self._seats:
                self._seats.refused(node, why)

    def _enter(self, node: int, content: RecordDict) -> None:
        config = content.get(CONFIG)
        client = config.get(PARTITION) if isinstance(config, ConfigRecord) else None
        if type(client) is not int or not 0 <= client < self._clients:
            log.warning("node %d holds none of the %d partitions: %r", node, self._clients, client)
            self._silent.add(node)
        elif why := self._why_not(node, client, config):
            self._turn_away(node, why)
        elif client in self._node_of:
            log.warning("node %d claims partition %d, which another node holds", node, client)
            self._second[node] = client
        else:
            self._client_of[node] = client
            self._node_of[client] = node

    def _why_not(self, node: int, client: int, config: object) -> str | None:
        if self._seats is None or not isinstance(config, ConfigRecord):
            return None
        return self._seats.why_not(node, client, self._nonces.pop(node, b""), config.get(PROOF))

    def _forget(self, node: int) -> None:
        client = self._client_of.pop(node)
        del self._node_of[client]
        # Nodes that claimed the same partition are queried again.
        self._second = {other: held for other, held in self._second.items() if held != client}
