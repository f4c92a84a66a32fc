"""A round's cohort: sampled, asked, and which of its replies count."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import groupby, islice
from typing import Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecordValues, Message
from flwr.serverapp import Grid

from fedmeta.errors import RunError
from fedmeta.federation.client import request_content
from fedmeta.tasks import stream

Settings = Mapping[str, ConfigRecordValues]


@runtime_checkable
class Addresses(Protocol):
    """The two directions between partition ids, which are ours, and node ids, which are Flower's."""

    def node_of(self, client: int) -> int | None:
        """Return the node that holds partition `client`; None if it is not there now."""
        ...

    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds; None if it holds none of ours."""
        ...


def wait_for_nodes(grid: Grid, clients: int, timeout: float) -> Addresses:
    """Wait until as many nodes as clients have registered, and return where each client is.

    Raises:
        RunError: If they have not within `timeout` seconds, or the grid cannot tell who is where.
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
    """Draw the clients of a round: uniform, without replacement, by partition id, in rising order."""
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
    """Address one request to each client that is there at the time it is read.

    All clients share one content, unless each is told something of its own.

    Args:
        kind: Flower's type of the message.
        round_: The round.
        arrays: The state.
        clients: Partition ids.
        addresses: Where they are.
        more: What clients are told beside the round: all the same, or each client something else.
    """
    shared = request_content(arrays, round_, None if callable(more) else more)
    for client in clients:
        if (node := addresses.node_of(client)) is not None:
            content = request_content(arrays, round_, more(client)) if callable(more) else shared
            yield Message(content, node, kind, group_id=str(round_))


def by_client(
    replies: Iterable[Message], addresses: Addresses
) -> Iterator[tuple[int, Sequence[Message]]]:
    """Group replies by the client that sent them, in the order of partition ids.

    A list, which is in whatever order replies arrived, is sorted; a stream must be in order. Replies of
    nodes that hold none of our partitions are left out.

    Raises:
        RunError: If a stream is not.
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
"""Time between two looks for replies, where the grid must be asked for them."""

Sound = Callable[[int, Sequence[Message]], bool]
"""Whether what a client sent would be admitted."""


@runtime_checkable
class Clock(Protocol):
    """A grid on which time is simulated."""

    def arrival(self, round_: int, client: int) -> float | None:
        """Return when the reply of a client arrives, in seconds after the request; None: never."""
        ...


class Receiver:
    """Asks the clients of one round, and takes what comes before the deadline or until it is enough.

    Where nobody is asked beyond the cohort, replies are a stream as the grid yields them, and hardly any
    are in memory at once. Where more are asked, those of a round are held.

    Args:
        grid: Where the clients are.
        book: Which node is which client.
        round_: The round.
        timeout: Seconds to wait.
        seed: Of the run; on a grid with simulated time it decides who is first among equals.
    """

    def __init__(self, grid: Grid, book: Addresses, round_: int, timeout: float, seed: int) -> None:
        self.grid = grid
        self.book = book
        self.round = round_
        self.timeout = timeout
        self.seed = seed
        self.surplus: frozenset[int] = frozenset()
        """Clients that were not needed; known once the replies have been read."""

    def arrival(self, client: int) -> float | None:
        """Return when a client's reply arrived, in seconds, late or not; None: it cannot be told."""
        return self.grid.arrival(self.round, client) if isinstance(self.grid, Clock) else None

    def all(self, asked: Iterable[Message]) -> Iterable[Message]:
        """Send the requests and return what arrives in time."""
        return self.grid.send_and_receive(asked, timeout=self.timeout)

    def first_valid(self, asked: Iterable[Message], enough: int, sound: Sound) -> list[Message]:
        """Send the requests and return the first `enough` sound replies, and all that are not sound.

        A reply that will be refused takes nobody's place: a fast client that sends rubbish cannot crowd
        out the others.

        Args:
            asked: The requests.
            enough: How many sound replies are waited for.
            sound: Whether a reply would be admitted.
        """
        requests = list(asked)
        simulated = isinstance(self.grid, Clock)
        sent = self._simulated(requests) if simulated else self._poll(requests, enough, sound)
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
            # Nobody waited for those who had not answered by then.
            everybody = {self.book.client_of(request.metadata.dst_node_id) for request in requests}
            surplus |= {client for client in everybody if client is not None and client not in sent}
        self.surplus = frozenset(surplus)
        return kept

    def _simulated(self, requests: list[Message]) -> dict[int, list[Message]]:
        return self._grouped(self.grid.send_and_receive(requests, timeout=self.timeout))

    def _in_order(self, sent: Mapping[int, Sequence[Message]]) -> list[int]:
        """Return the clients in the order in which their replies arrived."""
        if not isinstance(self.grid, Clock):
            return list(sent)
        clients = sorted(sent)
        # Without delays all arrive at once; if then the lowest ids won, the others would never train.
        tie = dict(
            zip(clients, stream(self.seed, "arrival", self.round).permutation(len(clients)), strict=True)
        )
        return sorted(clients, key=lambda client: (self.arrival(client) or 0.0, tie[client]))

    def _poll(self, requests: list[Message], enough: int, sound: Sound) -> dict[int, list[Message]]:
        deadline = time.monotonic() + self.timeout
        waiting = set(self.grid.push_messages(requests))
        sent: dict[int, list[Message]] = {}
        while waiting:
            new = list(self.grid.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in new}
            for client, replies in self._grouped(new).items():
                sent.setdefault(client, []).extend(replies)
            if sum(sound(client, replies) for client, replies in sent.items()) >= enough:
                break
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                break
            time.sleep(min(POLL_SECONDS, left))
        return sent

    def _grouped(self, replies: Iterable[Message]) -> dict[int, list[Message]]:
        """Return replies by client, in the order of partition ids; those of strangers are left out."""
        grouped: dict[int, list[Message]] = {}
        for client, reply in sorted(self._known(replies), key=lambda pair: pair[0]):
            grouped.setdefault(client, []).append(reply)
        return grouped

    def _known(self, replies: Iterable[Message]) -> Iterator[tuple[int, Message]]:
        for reply in replies:
            client = self.book.client_of(reply.metadata.src_node_id)
            if client is not None:
                yield client, reply
