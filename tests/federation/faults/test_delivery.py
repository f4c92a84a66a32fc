"""Faults on real-time engines: outcomes as in simulated time, without a wait for late replies."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from flwr.app import MessageType

from fedmeta.federation import Federation, Learner, MetaStrategy, Plan, RoundRecord, Workload
from fedmeta.federation.cohort import requests
from fedmeta.federation.engines.client_app import build_remote_app, build_side
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.faults import FaultOptions, FaultyDelivery, read_faults
from fedmeta.federation.flower import as_server
from fedmeta.tasks import Population
from tests.federation.engines.helpers import Nodes, acquaint
from tests.federation.faults import everything
from tests.federation.faults.everything import fates
from tests.federation.helpers import SINUSOID, train

TRIO = replace(SINUSOID, population=Population(3))


@pytest.fixture(autouse=True)
def _server() -> Iterator[None]:
    with as_server():
        yield


def entry(kind: str, client: int, round_: int = 1, **options: Any) -> dict[str, Any]:
    return {"kind": kind, "clients": [client], "rounds": [round_], **options}


def delivery(workload: Workload, *entries: dict[str, Any]) -> FaultyDelivery:
    """Build nodes that reply at once, behind a grid that injects the faults of the entries."""
    clients = len(workload.population)
    faults = read_faults(FaultOptions(entries=list(entries)), workload.population, 9, seed=0)
    side = build_side(workload, (), faults)
    nodes = Nodes(build_remote_app(lambda _: side), range(clients))
    grid = FaultyDelivery(NodeDirectory(nodes, clients), faults)
    acquaint(grid, clients)
    return grid


def play(
    workload: Workload, plan: Plan, *entries: dict[str, Any]
) -> tuple[list[RoundRecord], list[float]]:
    """Run the federation; return the rounds' records, and the seconds between their ends."""
    records: list[RoundRecord] = []
    ends: list[float] = []

    def observe(record: RoundRecord, _: Any) -> None:
        records.append(record)
        ends.append(time.monotonic())

    train(Federation(Learner.build(workload), delivery(workload, *entries)), plan, observe)
    return records, [later - earlier for earlier, later in pairwise(ends)]


def test_each_fault_has_the_same_outcome_in_real_and_simulated_time() -> None:
    records, _ = play(everything.CREW, everything.plan(2.5), *everything.ENTRIES)
    everything.check(records, 2.5)


def test_a_late_client_is_awaited_until_the_deadline() -> None:
    late = [entry("late", 1, 2, seconds=0.5), entry("late", 1, 3, seconds=600.0)]
    records, seconds = play(TRIO, Plan(rounds=4, cohort=3, timeout=2.5), *late)
    assert [fates(record)[1][0] for record in records] == ["admitted", "admitted", "lost", "admitted"]
    assert seconds[0] >= 0.5
    assert seconds[1] >= 2.5


def test_a_client_that_vanishes_is_lost_until_it_returns() -> None:
    plan = Plan(rounds=4, cohort=3, timeout=1.5)
    records, _ = play(TRIO, plan, entry("vanish", 1, 2, away=2))
    assert [fates(record)[1][0] for record in records] == ["admitted", "lost", "lost", "admitted"]


def test_with_oversampling_late_clients_are_not_awaited() -> None:
    # Both are longer than a test may take.
    plan = Plan(rounds=1, cohort=2, oversample=1, timeout=3600.0)
    records, _ = play(TRIO, plan, entry("late", 1, seconds=3000.0))
    assert fates(records[0])[1] == ("surplus", "not needed: 2 answered before")


def test_a_held_reply_is_dropped_when_the_next_round_begins() -> None:
    grid = delivery(TRIO, entry("late", 1, seconds=600.0))
    strategy = MetaStrategy(Learner.build(TRIO), Plan(rounds=2, cohort=3))
    strategy.connect(grid)

    def clients(round_: int, timeout: float) -> list[int | None]:
        asked = requests(MessageType.TRAIN, round_, strategy.arrays, [0, 1], grid)
        replies = grid.send_and_receive(asked, timeout=timeout)
        return sorted(grid.client_of(reply.metadata.src_node_id) or 0 for reply in replies)

    assert clients(1, timeout=1.0) == [0]
    assert len(grid._held) == 1
    assert clients(2, timeout=60.0) == [0, 1]
    assert not grid._held
