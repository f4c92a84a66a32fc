"""Local training: as many models as clients, none of which knows of another."""

from dataclasses import replace

import pytest
import torch

from fedmeta.errors import DivergedError
from fedmeta.federation import (
    EvaluationSums,
    Federation,
    Learner,
    Plan,
    RoundRecord,
    ServerOptions,
    Snapshot,
)
from fedmeta.federation.cohort import sample_cohort
from fedmeta.federation.engines.vector import open_vector
from fedmeta.federation.evaluation import evaluate_tasks
from fedmeta.learning import expand_state
from fedmeta.training import WAYS, TrainingSetup, simulate
from fedmeta.training.ways import local as models
from tests.federation.helpers import SINUSOID, assert_same

PLAN = Plan(rounds=5, cohort=6, server=ServerOptions(lr=0.01, schedule="linear"), evaluate_every=2)
CLIENTS = SINUSOID.population.train


def run(plan: Plan = PLAN, start: Snapshot | None = None) -> tuple[list[RoundRecord], list[Snapshot]]:
    records: list[RoundRecord] = []
    snapshots: list[Snapshot] = []

    def observe(record: RoundRecord, snapshot: Snapshot) -> None:
        records.append(record)
        snapshots.append(snapshot)

    final = simulate(SINUSOID, plan, observer=observe, start=start, training="local")
    assert_same(final.state, snapshots[-1].state if snapshots else final.state)
    return records, snapshots


@pytest.fixture(scope="module")
def trained() -> tuple[list[RoundRecord], list[Snapshot]]:
    return run()


def test_each_model_is_that_of_its_client_trained_by_a_plain_loop(
    trained: tuple[list[RoundRecord], list[Snapshot]],
) -> None:
    learner = Learner.build(SINUSOID)
    for client in (0, 5, CLIENTS - 1):
        weights = {key: value.clone() for key, value in learner.template.items()}
        adam = torch.optim.Adam(weights.values())
        for round_ in range(1, PLAN.rounds + 1):
            if client not in sample_cohort(SINUSOID.seed, round_, CLIENTS, PLAN.cohort):
                continue
            task = learner.sample(round_, client)
            gradients, _ = learner.algorithm.task_updates(expand_state(weights, 1), task)
            for key, value in weights.items():
                value.grad = gradients[key][0]
            adam.param_groups[0]["lr"] = 0.01 * (1 - (round_ - 1) / PLAN.rounds)
            adam.step()
        for key, value in weights.items():
            found = trained[1][-1].state[key][client]
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-7)


def test_rounds_tell_who_trained_on_what_and_that_nothing_was_sent(
    trained: tuple[list[RoundRecord], list[Snapshot]],
) -> None:
    for record in trained[0]:
        cohort = sample_cohort(SINUSOID.seed, record.round, CLIENTS, PLAN.cohort)
        assert [client.client for client in record.clients] == cohort
        assert (record.tasks, record.bytes_up, record.bytes_down) == (6, 0, 0)
        assert record.loss == pytest.approx(sum(c.loss or 0 for c in record.clients) / 6)
        assert (record.evaluation is not None) == (record.round % 2 == 0)


def test_a_restart_from_any_round_ends_with_the_same_bits(
    trained: tuple[list[RoundRecord], list[Snapshot]],
) -> None:
    records, snapshots = trained
    rest, again = run(start=snapshots[1])
    assert rest == records[2:]
    assert_same(again[-1].state, snapshots[-1].state)
    assert_same(again[-1].optimizer, snapshots[-1].optimizer)


def test_models_take_turns_over_the_tasks_of_a_held_out_client(
    trained: tuple[list[RoundRecord], list[Snapshot]],
) -> None:
    learner, state = Learner.build(SINUSOID), trained[1][-1].state
    with open_vector(learner) as grid:
        way = WAYS.get("local")(TrainingSetup(Federation(learner, grid), PLAN))
        found = way.test(state, "test")
    assert list(found) == list(SINUSOID.population.clients("test"))
    for client, sums in found.items():
        tasks = learner.evaluation_tasks(client)
        parts = [
            evaluate_tasks(
                learner.algorithm,
                {key: value[(client + task) % CLIENTS] for key, value in state.items()},
                tasks[task : task + 1],
                SINUSOID.evaluation_steps,
            )
            for task in range(len(tasks))
        ]
        assert isinstance(sums, EvaluationSums)
        total = [sum(part.sums["loss"][step] for part in parts) for step in range(3)]
        assert sums.sums["loss"] == pytest.approx(total, rel=1e-6)


def test_one_optimizer_over_all_models_takes_the_steps_of_one_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("Adam", "SGD", "RMSprop"):
        plan = replace(PLAN, cohort=CLIENTS, server=ServerOptions(optimizer=name, lr=0.01))
        records, snapshots = run(plan)
        rest, again = run(plan, start=snapshots[1])
        assert rest == records[2:]
        assert_same(again[-1].state, snapshots[-1].state)
        with monkeypatch.context() as patch:
            patch.setattr(models, "BY_ELEMENT", frozenset())
            alone, apart = run(plan)
        assert alone == records
        assert_same(apart[-1].state, snapshots[-1].state)


def test_a_client_that_diverges_alone_is_named() -> None:
    wild = replace(PLAN, server=ServerOptions(optimizer="SGD", lr=1e30))
    with pytest.raises(DivergedError, match=r"client \d+: round \d diverged"):
        run(wild)
