"""Centralized training is the federated algorithm on pooled tasks, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmeta.errors import RunError
from fedmeta.federation import Learner, Plan, RoundRecord, ServerOptions, Snapshot, Workload
from fedmeta.learning import AlgorithmSetup, expand_state
from fedmeta.tasks import Population, TaskBatch, stream
from fedmeta.training import simulate
from fedmeta.training.ways.centralized import PooledLearner
from tests.federation.helpers import SINUSOID, assert_same

PLAN = Plan(rounds=5, cohort=6, server=ServerOptions(lr=0.01, schedule="cosine"), evaluate_every=2)


def run(
    workload: Workload, plan: Plan, start: Snapshot | None = None
) -> tuple[Snapshot, list[RoundRecord], list[Snapshot]]:
    records: list[RoundRecord] = []
    snapshots: list[Snapshot] = []

    def observe(record: RoundRecord, snapshot: Snapshot) -> None:
        records.append(record)
        snapshots.append(snapshot)

    end = simulate(workload, plan, observer=observe, start=start, training="centralized")
    return end, records, snapshots


@pytest.mark.parametrize("algorithm", ["maml", "fedavg"])
def test_one_client_with_all_data_is_the_same_bit_for_bit_with_and_without_a_federation(
    algorithm: str,
) -> None:
    alone = replace(
        SINUSOID,
        population=Population(1, 2, 3),
        setup=replace(SINUSOID.setup, algorithm=algorithm),
        tasks_per_client=3,
        local_steps=2,
    )
    plan = replace(PLAN, cohort=1, track=5)
    federated: list[RoundRecord] = []
    one = simulate(alone, plan, observer=lambda record, _: federated.append(record))
    other, centralized, _ = run(alone, plan)
    assert_same(one.state, other.state)
    assert_same(one.optimizer, other.optimizer)
    for sent, pooled in zip(federated, centralized, strict=True):
        assert replace(sent, bytes_up=0, bytes_down=0, clients=()) == replace(
            pooled, update_norm=sent.update_norm
        )
        assert pooled.update_norm == pytest.approx(sent.update_norm, rel=1e-12)


def test_a_step_is_the_mean_gradient_over_as_many_pooled_tasks_as_a_cohort_has() -> None:
    workload = replace(SINUSOID, tasks_per_client=2)
    plan = replace(PLAN, rounds=3, evaluate_every=0, server=ServerOptions(optimizer="SGD", lr=0.1))
    learner = Learner.build(workload)
    state = learner.init_state()
    for round_ in range(1, 4):
        owners = stream(workload.seed, "pooled", round_).integers(0, 12, 12)
        streams = {
            owner: stream(workload.seed, "train", round_, owner) for owner in set(owners.tolist())
        }
        counts = {owner: int((owners == owner).sum()) for owner in streams}
        tasks = TaskBatch.concat(
            [learner.family.sample(owner, counts[owner], rng) for owner, rng in streams.items()]
        )
        gradients, _ = learner.algorithm.task_updates(expand_state(state, 12), tasks)
        state = {key: value - 0.1 * gradients[key].mean(0) for key, value in state.items()}
    found, records, _ = run(workload, plan)
    for key, value in state.items():
        torch.testing.assert_close(found.state[key], value, rtol=1e-5, atol=1e-7)
    assert [(r.tasks, r.bytes_up, r.bytes_down, r.clients) for r in records] == [(12, 0, 0, ())] * 3


def test_pooled_tasks_come_from_all_training_clients_and_keep_the_order_of_the_draw() -> None:
    workload = replace(SINUSOID, data={"heterogeneity": 1.0}, tasks_per_client=4)
    learner = PooledLearner(Learner.build(workload), 6)
    owners = stream(workload.seed, "pooled", 9).integers(0, 12, 24)
    tasks = learner.sample(9, 0)
    for task, owner in enumerate(owners.tolist()):
        # With heterogeneity 1 a client knows a single wave, so that a task shows whose it is.
        (amplitude, _), (phase, _) = learner.family.intervals(owner)  # type: ignore[attr-defined]
        wave = amplitude * np.sin(tasks.support_x[task].numpy() - phase)
        np.testing.assert_allclose(tasks.support_y[task].numpy(), wave, rtol=1e-4, atol=1e-5)
    assert set(owners.tolist()) <= set(range(12))
    assert len(set(owners.tolist())) > 6


def test_a_restart_from_any_round_ends_with_the_same_bits() -> None:
    whole, records, snapshots = run(SINUSOID, PLAN)
    again, rest, _ = run(SINUSOID, PLAN, start=snapshots[2])
    assert_same(whole.state, again.state)
    assert_same(whole.optimizer, again.optimizer)
    assert rest == records[3:]
    finished, none, _ = run(SINUSOID, PLAN, start=whole)
    assert_same(finished.state, whole.state)
    assert not none


def test_data_that_cannot_be_drawn_from_ends_the_run_in_one_line() -> None:
    broken = replace(SINUSOID, task="tests.federation.helpers:Offline")
    with pytest.raises(RunError, match="training on the pooled tasks failed: OSError: no disk"):
        run(broken, PLAN)


def test_batch_norm_models_can_be_trained_centrally() -> None:
    images = replace(
        SINUSOID,
        task="tests.federation.helpers:NoisyImages",
        data={},
        setup=AlgorithmSetup("fomaml", {"inner_lr": 0.1}, "conv4", {"width": 4}),
    )
    _, records, _ = run(images, replace(PLAN, rounds=2))
    assert records[-1].evaluation is not None
    assert records[-1].evaluation[-1].inductive == "inductive_accuracy"
