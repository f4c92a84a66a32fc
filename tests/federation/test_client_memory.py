"""Clients' memory: a round changes it once, and only if its update counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fedmeta.errors import ConfigError
from fedmeta.federation import (
    Federation,
    GateOptions,
    Learner,
    MetaStrategy,
    Plan,
    RoundRecord,
    Snapshot,
)
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.behaviours import mods_for
from fedmeta.federation.client import build_client_app
from fedmeta.federation.client_states import ClientStates, versions_in
from fedmeta.federation.cohort import requests
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.faults import KINDS, FaultOptions, read_faults
from fedmeta.federation.flower import as_server
from fedmeta.learning import LocalWork, Tensors
from fedmeta.learning.algorithms import FedAvg
from fedmeta.learning.device import one_thread
from fedmeta.training import simulate
from tests.federation.engines.helpers import Nodes, acquaint
from tests.federation.helpers import PLAN, Fragile, algorithm, assert_same, train


class Counting(FedAvg):
    """FedAvg whose clients count the rounds that they remember, and report the count as their loss."""

    def init_client(self, client: int) -> Tensors:
        return {"rounds": torch.zeros(()), "id": torch.full((2,), client)}

    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        assert torch.equal(client["id"], torch.tensor([[c, c] for c in work.clients]))
        update, _, metrics = super().local_update(start, client, work)
        after = {"rounds": client["rounds"] + 1, "id": client["id"]}
        return update, after, metrics | {"loss": client["rounds"].clone()}


COUNTING = algorithm("tests.federation.test_client_memory:Counting")
ROUNDS = Plan(rounds=12, cohort=6)


def run(plan: Plan = ROUNDS, **options: Any) -> list[RoundRecord]:
    records: list[RoundRecord] = []
    workload = options.pop("workload", COUNTING)
    simulate(workload, plan, observer=lambda record, _: records.append(record), **options)
    return records


def assert_counted(records: Sequence[RoundRecord]) -> Counter[int]:
    """Each client must report in how many rounds before its update had counted; return the counts."""
    counted: Counter[int] = Counter()
    for record in records:
        admitted = [client for client in record.clients if client.admitted]
        assert {c.client: c.loss for c in admitted} == {c.client: counted[c.client] for c in admitted}
        if not record.skipped:
            counted.update(client.client for client in admitted)
    assert max(counted.values()) > 3
    return counted


def test_a_clients_memory_is_available_in_its_next_round() -> None:
    counts = assert_counted(run())
    assert sum(counts.values()) == 12 * 6


def test_worker_processes_remember_nothing_themselves() -> None:
    assert run(workers=2) == run()


@pytest.mark.parametrize(
    "plan",
    [
        replace(ROUNDS, rounds=20, gate=GateOptions(max_norm=6.5)),
        replace(ROUNDS, cohort=4, oversample=3),
        replace(ROUNDS, rounds=30, quorum=5, gate=GateOptions(max_norm=9)),
    ],
    ids=["refused", "surplus", "below the quorum"],
)
def test_an_update_that_does_not_count_changes_nothing(plan: Plan) -> None:
    records = run(plan)
    counts = assert_counted(records)
    assert sum(counts.values()) < sum(record.cohort for record in records)
    assert any(record.skipped for record in records) == (plan.quorum > 1)


def test_a_client_with_a_fault_remembers_the_rounds_that_counted() -> None:
    options = FaultOptions(rates=dict.fromkeys(KINDS, 0.5 / len(KINDS)), seconds=1e4, away=1)
    plan = replace(ROUNDS, rounds=40, cohort=8)
    records = run(plan, faults=read_faults(options, COUNTING.population, plan.rounds, seed=1))
    assert_counted(records)
    outcomes = Counter(client.outcome for record in records for client in record.clients)
    assert min(outcomes[kind] for kind in ("admitted", "quarantined", "late", "lost")) > 0


def same(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    return call_next(message, context)


def again(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Train twice, and send what came of it the second time."""
    content = message.content
    call_next(message, context)
    message.content = content
    return call_next(message, context)


def test_a_client_with_mods_is_computed_again_and_remembers_once() -> None:
    mods = {1: [same], 4: [again], 7: [same, again]}
    assert run(mods=mods) == run()


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "poison", "clients": [2, 5], "factor": 2.0},
        {"kind": "noisy-data", "clients": [2, 5]},
        {"kind": "copy", "clients": [2, 5], "of": 3},
        {"kind": "sybil", "clients": [2, 5], "owner": 3},
    ],
    ids=lambda table: str(table["kind"]),
)
def test_clients_that_misbehave_remember_by_the_same_rule(table: Mapping[str, Any]) -> None:
    plain = COUNTING if table["kind"] not in ("copy", "sybil") else replace(COUNTING, setup=NO_IDS)
    assert_counted(run(workload=plain, mods=mods_for([table], plain)))


class NoIds(Counting):
    """The same for clients that answer in the name of another."""

    def init_client(self, client: int) -> Tensors:
        return super().init_client(0)

    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        return super().local_update(start, client, replace(work, clients=[0] * len(work.clients)))


NO_IDS = replace(COUNTING.setup, algorithm="tests.federation.test_client_memory:NoIds")


def test_a_client_that_breaks_its_stack_does_not_affect_the_others() -> None:
    whole = {c.client: c.loss for r in run() for c in r.clients if c.client != Fragile.BROKEN}
    task = "tests.federation.helpers:Fragile"
    records = run(workload=replace(COUNTING, task=task))
    assert_counted(records)
    seen = {c.client: c.loss for r in records for c in r.clients if c.client != Fragile.BROKEN}
    assert seen == whole


@pytest.mark.parametrize("killed_after", [4, 5, 7])
@pytest.mark.parametrize("training", ["federated", "local"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, killed_after: int, training: str) -> None:
    """A checkpoint every second round; what was computed after it is computed again."""
    workload = algorithm("scaffold", local_steps=2, local_lr=0.05)
    plan = replace(ROUNDS, checkpoint_every=2)
    whole: list[RoundRecord] = []
    end = simulate(workload, plan, observer=lambda r, _: whole.append(r), training=training)
    kept: list[Snapshot] = []
    states = ClientStates(tmp_path / "clients.sqlite")

    def observe(record: RoundRecord, snapshot: Snapshot) -> None:
        if record.round % 2 == 0:
            states.commit()
            kept.append(snapshot)
        if record.round == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(workload, plan, observer=observe, states=states, training=training)
    states.close()
    # From the newest checkpoint, and from the one before it.
    for start in kept[-2:][::-1]:
        again = ClientStates(tmp_path / "clients.sqlite")
        rest: list[RoundRecord] = []
        options: dict[str, Any] = {"start": start, "states": again, "training": training}
        other = simulate(workload, plan, observer=partial(_keep, rest), **options)
        again.close()
        assert rest == whole[start.round :]
        assert_same(other.state, end.state)


def _keep(records: list[RoundRecord], record: RoundRecord, _: Snapshot) -> None:
    records.append(record)


def nodes_of(learner: Learner) -> Nodes:
    return Nodes(build_client_app(learner), range(len(learner.workload.population)))


def test_a_flower_context_holds_it_where_clients_are_nodes() -> None:
    records: list[RoundRecord] = []
    with one_thread(), as_server():
        learner = Learner.build(COUNTING)
        nodes = nodes_of(learner)
        grid = NodeDirectory(nodes, len(COUNTING.population))
        acquaint(grid, len(COUNTING.population))
        train(Federation(learner, grid), ROUNDS, lambda record, _: records.append(record))
    counts = assert_counted(records)
    held = [len(versions_in(context.state)) for context in nodes.contexts.values()]
    # The version that counts, and that of the last update, of which nothing was heard yet.
    assert max(held) == 2
    assert sum(bool(n) for n in held) == len(counts)


def test_a_node_that_lost_its_memory_starts_afresh_and_the_run_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def observe(record: RoundRecord, _: Snapshot) -> None:
        records.append(record)
        if record.round == 6:
            for context in nodes.contexts.values():
                context.state.clear()

    records: list[RoundRecord] = []
    with one_thread(), as_server():
        learner = Learner.build(COUNTING)
        nodes = nodes_of(learner)
        grid = NodeDirectory(nodes, len(COUNTING.population))
        acquaint(grid, len(COUNTING.population))
        train(Federation(learner, grid), ROUNDS, observe)
    before = assert_counted(records[:6])
    assert_counted(records[6:])
    lost = {int(line.split()[3]) for line in caplog.messages if "lost its memory" in line}
    asked = {client.client for record in records[6:] for client in record.clients}
    assert lost == before.keys() & asked


def test_no_memory_is_in_a_message() -> None:
    """Each reply has the parts of one whose clients remember nothing, and the state's tensors alone."""
    with one_thread(), as_server():
        learner = Learner.build(COUNTING)
        nodes = nodes_of(learner)
        strategy = MetaStrategy(learner, PLAN)
        grid = NodeDirectory(nodes, len(COUNTING.population))
        acquaint(grid, len(COUNTING.population))
        asked = list(requests("train", 1, strategy.arrays, range(12), grid))
        replies = [reply for _ in asked for reply in nodes.pull_messages(nodes.push_messages(asked[:1]))]
    for reply in replies:
        assert set(reply.content) == {"arrays", "metrics", "config"}
        assert set(reply.content["arrays"]) == set(learner.template)  # type: ignore[arg-type]
        assert set(reply.content["config"]) == {"round"}  # type: ignore[arg-type]
        assert set(reply.content["metrics"]) == {"num-tasks", "loss", "loss_before"}  # type: ignore[arg-type]


def test_flowers_strategies_are_refused_for_clients_that_remember() -> None:
    plan = replace(PLAN, aggregation=AggregationOptions(rule="flwr.serverapp.strategy:FedAvg"))
    with pytest.raises(ConfigError, match="a Flower strategy cannot aggregate for algorithm 'scaffold'"):
        run(plan, workload=algorithm("scaffold"))


@pytest.mark.parametrize("training", ["centralized", "local"])
def test_other_ways_to_train_remember_each_round(training: str) -> None:
    records = run(replace(ROUNDS, cohort=12), training=training)
    if training == "centralized":
        assert [record.loss for record in records] == list(range(12))
    else:
        assert_counted(records)
