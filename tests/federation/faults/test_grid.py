"""Faults in simulated time, and changing node ids."""

from typing import Any, cast

import pytest
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedmeta.federation import Federation, Learner, MetaStrategy, Plan
from fedmeta.federation.cohort import requests
from fedmeta.federation.engines.vector import open_vector
from fedmeta.federation.faults import FaultOptions, FaultPlan, SimulatedDelivery, read_faults
from tests.federation.helpers import SINUSOID, train

PLAN = Plan(rounds=4, cohort=12, timeout=100.0)
LEARNER = Learner.build(SINUSOID)


def plan(*entries: dict[str, Any]) -> FaultPlan:
    return read_faults(FaultOptions(entries=list(entries)), SINUSOID.population, 4, seed=0)


def entry(kind: str, **options: Any) -> dict[str, Any]:
    return {"kind": kind, "clients": [3], "rounds": [2], **options}


def play(faults: FaultPlan) -> tuple[list[str], list[list[int]]]:
    """Run the federation; return client 3's outcomes by round, and the nodes that replied by round."""
    nodes: list[list[int]] = []

    class Watched(SimulatedDelivery):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            replies = list(super().send_and_receive(messages, timeout=timeout))
            nodes.append([reply.metadata.src_node_id for reply in replies])
            return replies

    seen: list[str] = []
    with open_vector(LEARNER, faults=faults) as grid:
        federation = Federation(LEARNER, Watched(grid, faults))
        train(federation, PLAN, lambda r, _: seen.append(r.clients[3].outcome))
    return seen, nodes


@pytest.mark.parametrize(("seconds", "outcome"), [(99.0, "admitted"), (101.0, "late"), (1e9, "late")])
def test_a_late_reply_takes_no_real_time_and_is_judged_by_the_deadline(
    seconds: float, outcome: str
) -> None:
    seen, _ = play(plan(entry("late", seconds=seconds)))
    assert seen == ["admitted", outcome, "admitted", "admitted"]


def test_a_client_that_vanishes_is_lost_until_it_returns() -> None:
    assert play(plan(entry("vanish", away=2)))[0] == ["admitted", "lost", "lost", "admitted"]


def test_a_client_that_returns_with_another_node_id_is_asked_by_that_id() -> None:
    seen, nodes = play(plan(entry("move", away=1)))
    assert seen == ["admitted", "lost", "admitted", "admitted"]
    others = [node for node in range(2, 14) if node != 5]
    clients = len(SINUSOID.population)
    assert [sorted(sent) for sent in nodes] == [
        list(range(2, 14)),
        others,
        [*others, 5 + clients],
        [*others, 5 + clients],
    ]


def test_a_client_that_returns_with_another_node_id_has_no_memory() -> None:
    counts: list[int] = []

    def count(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        before = context.state.get("count")
        seen = int(cast(Any, before)["n"]) if before else 0
        context.state["count"] = MetricRecord({"n": seen + 1})
        counts.append(seen)
        return call_next(message, context)

    faults = plan(entry("move", away=1))
    with open_vector(LEARNER, mods={3: [count]}, faults=faults) as grid:
        train(Federation(LEARNER, SimulatedDelivery(grid, faults)), PLAN)
    assert counts == [0, 1, 0, 1]


def test_a_request_to_the_old_node_id_is_lost() -> None:
    with open_vector(LEARNER) as vector:
        grid = SimulatedDelivery(vector, plan(entry("move", away=1)), first_round=3)
        arrays = MetaStrategy(LEARNER, PLAN).arrays
        asked = list(requests("train", 3, arrays, [3, 4], grid))
        assert asked[0].metadata.dst_node_id == 5 + len(SINUSOID.population)
        asked[0].metadata.dst_node_id = 5
        replies = list(grid.send_and_receive(asked))
    assert [grid.client_of(reply.metadata.src_node_id) for reply in replies] == [4]


def test_two_replies_of_one_client_reach_the_gate() -> None:
    seen, nodes = play(plan(entry("twice")))
    assert seen[1] == "quarantined"
    assert nodes[1].count(5) == 2
