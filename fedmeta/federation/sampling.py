"""Samples a round's cohort, addresses its requests, and groups replies by client."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import groupby, islice
from typing import Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecordValues, Message
from flwr.serverapp import Grid

from fedmeta.errors import RunError
from fedmeta.federation.client import request_content
from fedmeta.tasks import stream


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
    more: Mapping[str, ConfigRecordValues] | None = None,
) -> Iterator[Message]:
    """Address one request to each client that is there at the time it is read.

    Args:
        kind: Flower's type of the message.
        round_: The round.
        arrays: The state.
        clients: Partition ids.
        addresses: Where they are.
        more: What a user's strategy tells its clients beside the round.
    """
    content = request_content(arrays, round_, more)
    for client in clients:
        if (node := addresses.node_of(client)) is not None:
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
