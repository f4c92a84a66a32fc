"""A grid with random node ids becomes one that addresses clients by partition."""

import logging
import time
from collections.abc import Iterator

import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from fedmeta.errors import RunError, UsageError
from fedmeta.federation import Federation, Learner, Plan, RoundRecord
from fedmeta.federation.client import request_content
from fedmeta.federation.codec import Codec
from fedmeta.federation.cohort import wait_for_nodes
from fedmeta.federation.engines import node_directory as directory
from fedmeta.federation.engines import timeouts as polling
from fedmeta.federation.engines.client_app import ClientSide, build_remote_app
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.flower import as_server
from fedmeta.training import simulate
from tests.federation.engines.helpers import Nodes, acquaint
from tests.federation.helpers import PLAN, SINUSOID, assert_same, train

CLIENTS = len(SINUSOID.population)
LEARNER = Learner.build(SINUSOID)
APP = build_remote_app(lambda _: ClientSide(LEARNER))


@pytest.fixture(autouse=True)
def _server() -> Iterator[None]:
    with as_server():
        yield


def learned(nodes: Nodes) -> NodeDirectory:
    grid = NodeDirectory(nodes, CLIENTS)
    acquaint(grid, CLIENTS)
    return grid


def test_partitions_are_found_out_by_asking() -> None:
    nodes = Nodes(APP, reversed(range(CLIENTS)))
    grid = learned(nodes)
    for node, context in nodes.contexts.items():
        client = context.node_config["partition-id"]
        assert grid.client_of(node) == client
        assert grid.node_of(client) == node  # type: ignore[arg-type]
    assert grid.client_of(1) is None


def test_the_same_state_as_on_the_stacked_grid_though_replies_come_in_any_order() -> None:
    records: list[RoundRecord] = []
    federation = Federation(LEARNER, learned(Nodes(APP, range(CLIENTS))))
    ours = train(federation, PLAN, lambda record, _: records.append(record))
    stacked: list[RoundRecord] = []
    theirs = simulate(SINUSOID, PLAN, observer=lambda record, _: stacked.append(record))
    for key, value in theirs.state.items():
        assert (ours.state[key] - value).abs().max() <= 1e-5 * value.abs().max()
    assert [[c.client for c in r.clients] for r in records] == [
        [c.client for c in r.clients] for r in stacked
    ]
    again = train(Federation(LEARNER, learned(Nodes(APP, range(CLIENTS)))), PLAN)
    assert_same(ours.state, again.state)


def test_a_node_that_comes_back_under_another_id_takes_part_again() -> None:
    nodes = Nodes(APP, range(CLIENTS))
    grid = learned(nodes)
    lost = grid.node_of(3)
    assert lost is not None
    del nodes.contexts[lost]
    assert 3 not in [grid.client_of(node) for node in grid.get_node_ids()]
    assert grid.node_of(3) is None
    back = nodes.join(3)
    while grid.node_of(3) is None:
        list(grid.get_node_ids())
    assert grid.node_of(3) == back


def test_a_node_with_a_partition_keeps_it_from_others(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes(APP, range(CLIENTS))
    grid = learned(nodes)
    holder = grid.node_of(3)
    nodes.join(3)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            list(grid.get_node_ids())
    assert grid.node_of(3) == holder
    assert caplog.text.count("claims partition 3, which another node holds") == 1, "asked once"


def test_the_next_claimant_takes_over_when_the_first_leaves() -> None:
    nodes = Nodes(APP, range(CLIENTS))
    grid = learned(nodes)
    first, second = grid.node_of(3), nodes.join(3)
    assert first is not None
    for _ in range(5):
        list(grid.get_node_ids())
    del nodes.contexts[first]
    for _ in range(5):
        list(grid.get_node_ids())
    assert grid.node_of(3) == second


def test_a_node_that_died_over_its_query_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.federation.engines.node_directory.QUERY_SECONDS", 0.2)
    nodes = Nodes(APP, range(CLIENTS))
    grid = NodeDirectory(nodes, CLIENTS)
    list(grid.get_node_ids())
    nodes.waiting.clear()
    acquaint(grid, CLIENTS)
    assert grid.node_of(3) is not None


def test_a_node_with_an_unknown_partition_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes(APP, [*range(CLIENTS), 99])
    with caplog.at_level(logging.WARNING):
        grid = learned(nodes)
        for _ in range(5):
            list(grid.get_node_ids())
    assert caplog.text.count("holds none of the 17 partitions: 99") == 1


def test_a_node_without_data_is_reported_at_once() -> None:
    def no_data(_: Context) -> ClientSide:
        raise FileNotFoundError("no folder 'omniglot'")

    grid = NodeDirectory(Nodes(build_remote_app(no_data), range(CLIENTS)), CLIENTS)
    with pytest.raises(UsageError, match="cannot take part: FileNotFoundError: no folder 'omniglot'"):
        # Longer than a test may last.
        wait_for_nodes(grid, CLIENTS, 3600)


def test_no_reply_is_awaited_beyond_the_deadline() -> None:
    nodes = Nodes(APP, range(CLIENTS))
    grid = learned(nodes)
    nodes.pull_messages = lambda message_ids: []  # type: ignore[method-assign]
    content = request_content(Codec(LEARNER.template).encode(LEARNER.template), 1)
    node = grid.node_of(0)
    assert node is not None
    assert grid.send_and_receive([Message(content, node, MessageType.TRAIN)], timeout=0.3) == []


def test_an_engine_that_ended_is_not_waited_for() -> None:
    def ended() -> None:
        raise RunError("Ray ended")

    grid = NodeDirectory(Nodes(APP, range(CLIENTS)), CLIENTS, ended)
    with pytest.raises(RunError, match="Ray ended"):
        train(Federation(LEARNER, grid), Plan(rounds=1, cohort=2, timeout=600))


def test_a_reply_in_the_name_of_another_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(APP, range(CLIENTS))
    grid = learned(nodes)
    monkeypatch.setattr(polling, "LAST_WAIT", 0.02)
    one, other = grid.node_of(0), grid.node_of(1)
    assert one is not None
    assert other is not None
    honest = nodes.app

    def forge(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        reply.metadata.__dict__["_src_node_id"] = other
        return reply

    nodes.app = forge  # type: ignore[assignment]
    assert grid.send_and_receive([Message(RecordDict(), one, MessageType.QUERY)], timeout=1) == []


@pytest.mark.parametrize("there", [0, 2, CLIENTS - 1])
def test_too_few_nodes_are_reported_once_and_long_before_the_deadline(
    there: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr(directory.time, "monotonic", lambda: clock[0])
    grid = NodeDirectory(Nodes(APP, range(there)), CLIENTS)
    for _ in range(40):
        grid.get_node_ids()
        clock[0] += 0.5
        if clock[0] < 104:
            assert not caplog.messages, "nodes may take a moment to join"
    (line,) = caplog.messages
    assert line.startswith(
        f"{there} of {CLIENTS} nodes are connected, waiting for the others: start more"
    )


def test_each_change_in_missing_nodes_is_reported_until_all_are_connected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(directory.time, "monotonic", lambda: clock[0])
    nodes = Nodes(APP, range(CLIENTS - 2))
    grid = NodeDirectory(nodes, CLIENTS)
    for joining in (None, CLIENTS - 2, CLIENTS - 1):
        if joining is not None:
            nodes.join(joining)
        for _ in range(15):
            grid.get_node_ids()
            clock[0] += 0.5
    nodes.contexts.pop(next(iter(nodes.contexts)))
    grid.get_node_ids()
    assert [line.split()[0] for line in caplog.messages] == [str(CLIENTS - 2), str(CLIENTS - 1)]


class OneKeyEach:
    """Seats by shared secrets: the node of partition 3 alone is known to be let in."""

    def __init__(self, let_in: int | None = None) -> None:
        self.let_in = let_in
        self.told: list[tuple[int, str]] = []

    def admitted(self, node: int) -> bool:
        return node == self.let_in

    def why_not(self, node: int, client: int, nonce: bytes, proof: object) -> str | None:
        assert len(nonce) == 32
        return None if proof == secret_of(client) + nonce else f"it claims partition {client} falsely"

    def refused(self, node: int, why: str) -> None:
        self.told.append((node, why))


def secret_of(client: int) -> bytes:
    return f"secret of {client}, ".encode()


class Prover:
    """What the owner of one partition holds; it answers for whatever its config says."""

    def __init__(self, client: int) -> None:
        self.client = client

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        raise NotImplementedError

    def prove(self, node: int, client: int, nonce: bytes) -> bytes:
        return secret_of(self.client) + nonce


def proving(context: Context) -> ClientSide:
    """Each node has the secret of its partition, but those that joined as strangers that of 99."""
    client = context.node_config["partition-id"]
    stranger = "stranger" in context.node_config
    assert isinstance(client, int)
    return ClientSide(LEARNER, signatures=Prover(99 if stranger else client))


def stranger(nodes: Nodes, partition: int) -> int:
    node = nodes.join(partition)
    nodes.contexts[node].node_config["stranger"] = True
    return node


def seated(nodes: Nodes, seats: OneKeyEach, refreshes: int = 40) -> NodeDirectory:
    grid = NodeDirectory(nodes, CLIENTS, seats=seats)
    for _ in range(refreshes):
        grid.get_node_ids()
    return grid


PROVING = build_remote_app(proving)


def test_nodes_that_prove_their_partition_are_seated() -> None:
    nodes, seats = Nodes(PROVING, range(CLIENTS)), OneKeyEach()
    grid = seated(nodes, seats)
    assert [grid.client_of(node) for node in nodes.contexts] == list(range(CLIENTS))
    assert seats.told == []


@pytest.mark.parametrize("first", [True, False])
def test_a_node_that_claims_anothers_partition_is_never_seated(
    first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    nodes, seats = Nodes(PROVING, ()), OneKeyEach()
    if first:
        false = stranger(nodes, 3)
    for partition in range(CLIENTS):
        nodes.join(partition)
    if not first:
        false = stranger(nodes, 3)
    grid = seated(nodes, seats)
    assert grid.client_of(false) is None
    holder = grid.node_of(3)
    assert holder not in (None, false)
    assert caplog.text.count(f"node {false} is refused: it claims partition 3 falsely") == 1
    assert seats.told == [(false, "it claims partition 3 falsely")]


def test_a_node_that_was_refused_takes_no_partition_whose_holder_left() -> None:
    nodes, seats = Nodes(PROVING, range(CLIENTS)), OneKeyEach()
    false = stranger(nodes, 3)
    grid = seated(nodes, seats)
    holder = grid.node_of(3)
    assert holder is not None
    del nodes.contexts[holder]
    for _ in range(5):
        grid.get_node_ids()
    assert grid.node_of(3) is None
    assert grid.client_of(false) is None


def test_a_refused_node_is_asked_again_with_another_challenge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.federation.engines.node_directory.QUERY_SECONDS", 0.05)
    nodes, seats = Nodes(PROVING, range(CLIENTS)), OneKeyEach()
    node = stranger(nodes, 3)
    grid = seated(nodes, seats)
    del nodes.contexts[grid.node_of(3)]  # type: ignore[arg-type]
    del nodes.contexts[node].node_config["stranger"]
    deadline = time.monotonic() + 30
    while grid.node_of(3) != node:
        assert time.monotonic() < deadline
        grid.get_node_ids()


def test_only_failures_of_admitted_nodes_are_reported_and_no_others_end_a_run() -> None:
    def fails(context: Context) -> ClientSide:
        if "stranger" in context.node_config:
            raise FileNotFoundError("no folder 'omniglot'")
        return proving(context)

    nodes = Nodes(build_remote_app(fails), range(CLIENTS))
    false = stranger(nodes, 3)
    seats = OneKeyEach()
    seated(nodes, seats)
    assert [node for node, why in seats.told if "no folder 'omniglot'" in why] == [false]
    with pytest.raises(UsageError, match="cannot take part: FileNotFoundError: no folder 'omniglot'"):
        seated(nodes, OneKeyEach(false))


def test_without_seats_no_node_is_asked_for_proof() -> None:
    nodes = Nodes(APP, range(CLIENTS))
    asked: list[Message] = []
    push = nodes.push_messages
    nodes.push_messages = lambda messages: push([asked.append(m) or m for m in messages])  # type: ignore[method-assign,func-returns-value]
    learned(nodes)
    assert asked
    assert all(len(message.content) == 0 for message in asked)
