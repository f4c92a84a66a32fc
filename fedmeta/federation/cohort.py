"""Samples a round's cohort, sends its requests and collects its replies."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import groupby, islice
from typing import Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecordValues, Message
from flwr.serverapp import Grid

from fedmeta.errors import RunError
from fedmeta.federation.client import request_content
from fedmeta.federation.flower import addressed
from fedmeta.tasks import stream

Settings = Mapping[str, ConfigRecordValues]


@runtime_checkable
class Addresses(Protocol):
    """Maps fedmeta's partition ids to Flower's node ids and back."""

    def node_of(self, client: int) -> int | None:
        """Return the node that holds partition `client`; None if it is not connected."""
        ...

    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds; None if it holds none of ours."""
        ...


def wait_for_nodes(grid: Grid, clients: int, timeout: float) -> Addresses:
    """Wait until as many nodes as clients have registered, and return their addresses.

    Raises:
        RunError: If they have not within `timeout` seconds, or the grid does not know which node holds
            which partition.
    """
    deadline = time.monotonic() + timeout
    while (found := _count(grid.get_node_ids(), clients)) < clients:
        if time.monotonic() > deadline:
            raise RunError(f"only {found} of {clients} nodes registered within {timeout:g} s")
        time.sleep(min(0.5, timeout / 10))
    if not isinstance(grid, Addresses):
        raise RunError(f"{type(grid).__name__} does not tell which node holds which partition")
    return grid


def _count(nodes: Iterable[int], enough: int) -> int:
    return len(nodes) if isinstance(nodes, Sized) else sum(1 for _ in islice(nodes, enough))


def sample_cohort(seed: int, round_: int, population: int, size: int) -> list[int]:
    """Draw the clients of a round uniformly, without replacement; return ascending partition ids."""
    drawn = stream(seed, "cohort", round_).choice(population, size=size, replace=False, shuffle=False)
    return sorted(drawn.tolist())


def requests(  # noqa: PLR0913 (one is optional)
    kind: str,
    round_: int,
    arrays: ArrayRecord,
    clients: Iterable[int],
    addresses: Addresses,
    more: Settings | Callable[[int], Settings] | None = None,
) -> Iterator[Message]:
    """Yield a request for each client that is connected at that moment.

    All clients share one content, unless `more` differs by client.

    Args:
        kind: Flower's type of the message.
        round_: The round.
        arrays: The state.
        clients: Partition ids.
        addresses: Their nodes.
        more: Config besides the round: the same for all clients, or a function of the client.
    """
    shared = request_content(arrays, round_, None if callable(more) else more)
    like = Message(shared, 0, kind, group_id=str(round_))
    for client in clients:
        if (node := addresses.node_of(client)) is not None:
            content = request_content(arrays, round_, more(client)) if callable(more) else shared
            yield addressed(like, content, node)


def by_client(
    replies: Iterable[Message], addresses: Addresses
) -> Iterator[tuple[int, Sequence[Message]]]:
    """Group replies by the client that sent them, in the order of partition ids.

    A list is in order of arrival and is sorted here; a stream must be sorted already. Replies of nodes
    that hold none of our partitions are left out.

    Raises:
        RunError: If a stream is not sorted.
    """

    def client(reply: Message) -> int:
        found = addresses.client_of(reply.metadata.src_node_id)
        return -1 if found is None else found

    ordered = sorted(replies, key=client) if isinstance(replies, Sequence) else replies
    last = -1
    for number, group in groupby(ordered, key=client):
        if number < 0:
            continue
        if number < last:
            raise RunError("the grid streamed its replies out of order")
        last = number
        yield number, list(group)


POLL_SECONDS = 0.2
"""Seconds between polls, on grids that must be polled for replies."""

Sound = Callable[[int, Sequence[Message]], bool]
"""Whether what a client sent would be admitted."""


@runtime_checkable
class Clock(Protocol):
    """A grid with simulated time."""

    def arrival(self, round_: int, client: int) -> float | None:
        """Return when the reply of a client arrives, in seconds after the request; None: never."""
        ...


class Receiver:
    """Sends the requests of one round and collects replies until its deadline or until they suffice.

    Without spare clients, replies are streamed from the grid, so few are in memory at once. With spare
    clients, all replies of a round are held.

    Args:
        grid: Connects to the clients.
        addresses: Maps nodes to clients.
        round_: The round.
        timeout: Seconds to wait.
        seed: Seed of the run; on a grid with simulated time it breaks ties between arrivals.
    """

    def __init__(self, grid: Grid, addresses: Addresses, round_: int, timeout: float, seed: int) -> None:
        self.grid = grid
        self.addresses = addresses
        self.round = round_
        self.timeout = timeout
        self.seed = seed
        self.surplus: frozenset[int] = frozenset()
        """Clients that were not needed; known once the replies have been read."""

    def arrival(self, client: int) -> float | None:
        """Return when a client's reply arrived, in seconds, late or not; None if unknown."""
        return self.grid.arrival(self.round, client) if isinstance(self.grid, Clock) else None

    def all(self, asked: Iterable[Message]) -> Iterable[Message]:
        """Send the requests and return what arrives in time."""
        return self.grid.send_and_receive(asked, timeout=self.timeout)

    def first_valid(self, asked: Iterable[Message], enough: int, sound: Sound) -> list[Message]:
        """Send the requests; return the first `enough` valid replies and all invalid ones.

        Invalid replies do not count towards `enough`, so a fast client that sends rubbish cannot crowd
        out the others.

        Args:
            asked: The requests.
            enough: How many valid replies to wait for.
            sound: Whether a reply would be admitted.
        """
        requests = list(asked)
        simulated = isinstance(self.grid, Clock)
        if simulated:
            sent = dict(by_client(list(self.all(requests)), self.addresses))
        else:
            sent = self._poll(requests, enough, sound)
        kept: list[Message] = []
        found = 0
        surplus = set()
        for client in self._in_order(sent):
            if sound(client, sent[client]):
                found += 1
                if found > enough:
                    surplus.add(client)
                    continue
            kept += sent[client]
        if found >= enough and not simulated:
            # Clients that had not answered by then were not waited for.
            everybody = {self.addresses.client_of(request.metadata.dst_node_id) for request in requests}
            surplus |= {client for client in everybody if client is not None and client not in sent}
        self.surplus = frozenset(surplus)
        return kept

    def _in_order(self, sent: Mapping[int, Sequence[Message]]) -> list[int]:
        """Return the clients in the order in which their replies arrived."""
        if not isinstance(self.grid, Clock):
            return list(sent)
        clients = sorted(sent)
        # Without delays all arrive at once; if the lowest ids won, the others would never train.
        tie = dict(
            zip(clients, stream(self.seed, "arrival", self.round).permutation(len(clients)), strict=True)
        )
        return sorted(clients, key=lambda client: (self.arrival(client) or 0.0, tie[client]))

    def _poll(self, requests: list[Message], enough: int, sound: Sound) -> dict[int, Sequence[Message]]:
        deadline = time.monotonic() + self.timeout
        waiting = set(self.grid.push_messages(requests))
        sent: dict[int, Sequence[Message]] = {}
        while waiting:
            new = list(self.grid.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in new}
            for client, replies in by_client(new, self.addresses):
                sent[client] = [*sent.get(client, ()), *replies]
            if sum(sound(client, replies) for client, replies in sent.items()) >= enough:
                break
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                break
            time.sleep(min(POLL_SECONDS, left))
        return sent
