"""A stacked cohort computes what the same ClientApp computes one client at a time."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict

from fedmeta.federation import Learner, MetaStrategy, Plan, VectorGrid, Workload, build_client_app
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server, new_context
from fedmeta.learning import AlgorithmSetup
from fedmeta.learning.device import one_thread
from fedmeta.tasks import Population, TaskBatch, stream
from tests.federation.helpers import SINUSOID, algorithm, train_requests

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
CONV = Workload(
    task="tests.federation.helpers:NoisyImages",
    data={},
    population=Population(6),
    setup=AlgorithmSetup("maml", {"inner_lr": 0.1, "inner_steps": 2}, "conv4", {"width": 4}),
    seed=2,
)


def answers(workload: Workload) -> tuple[list[Message], list[Message]]:
    """The replies of a cohort, computed stacked, and by the ClientApp client by client."""
    with one_thread(), as_server():
        learner = Learner.build(workload)
        grid = VectorGrid(learner, InProcess(learner))
        plan = Plan(rounds=1, cohort=workload.population.train)
        strategy = MetaStrategy(learner, plan)
        requests = train_requests(grid, strategy, 1)
        stacked = list(grid.send_and_receive(requests))
        app = build_client_app(learner)
        contexts = [new_context(client + 2, client, plan.cohort) for client in range(plan.cohort)]
        return stacked, [app(r, c) for r, c in zip(requests, contexts, strict=True)]


def assert_equal_replies(workload: Workload) -> None:
    stacked, serial = answers(workload)
    assert len(stacked) == len(serial) == workload.population.train
    tolerance = TOLERANCE[workload.dtype]
    for ours, theirs in zip(stacked, serial, strict=True):
        assert ours.metadata.src_node_id == theirs.metadata.src_node_id
        assert ours.content["config"] == theirs.content["config"]
        for record in ("arrays", "metrics"):
            assert list(ours.content[record]) == list(theirs.content[record])
        scale = max(np.abs(a.numpy()).max() for a in theirs.content["arrays"].values())  # type: ignore[union-attr]
        for key, array in theirs.content["arrays"].items():
            difference = np.abs(ours.content["arrays"][key].numpy() - array.numpy()).max()  # type: ignore[index, union-attr]
            assert difference <= tolerance * max(1.0, scale), key
        for key, value in theirs.content["metrics"].items():
            assert ours.content["metrics"][key] == pytest.approx(value, rel=tolerance, abs=tolerance)  # type: ignore[index]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("name", ["maml", "fomaml", "reptile", "meta_sgd", "fedavg"])
def test_stacked_equals_serial_on_an_mlp(name: str, local_steps: int, dtype: str) -> None:
    assert_equal_replies(algorithm(name, local_steps=local_steps, dtype=dtype, tasks_per_client=2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("local_steps", [1, 3])
def test_stacked_equals_serial_on_conv4(local_steps: int, dtype: str) -> None:
    assert_equal_replies(replace(CONV, local_steps=local_steps, dtype=dtype))  # type: ignore[arg-type]


def test_the_cohort_is_cut_into_chunks_by_the_model_alone() -> None:
    learner = Learner.build(replace(SINUSOID, tasks_per_client=3))
    assert learner.chunk_clients == max(1, learner.algorithm.model.chunk_tasks // 3)


def test_local_steps_of_fedavg_are_plain_sgd_and_send_the_summed_gradients() -> None:
    """By hand: k SGD steps on each step's own two tasks, support and query together."""
    workload = algorithm("fedavg", local_steps=3, tasks_per_client=2, local_lr=0.05, dtype="float64")
    learner = Learner.build(workload)
    start = learner.init_state()
    update = learner.train(start, 5, [4])

    tasks = learner.family.sample(4, 6, stream(workload.seed, "train", 5, 4)).to(torch.float64)
    theta = {key: value.clone() for key, value in start.items()}
    for step in range(3):
        leaves = {key: value.requires_grad_() for key, value in theta.items()}
        losses = []
        for task in (2 * step, 2 * step + 1):
            one = tasks[task : task + 1]
            examples = one.all_examples
            weights = {k: v[None] for k, v in leaves.items()}
            prediction = learner.algorithm.model.forward(weights, examples["x"])
            losses.append(learner.algorithm.objective.loss(prediction, examples)[0])
        gradients = torch.autograd.grad(sum(losses) / 2, list(leaves.values()))
        theta = {k: (v - 0.05 * g).detach() for (k, v), g in zip(leaves.items(), gradients, strict=True)}
    for key, value in theta.items():
        torch.testing.assert_close(
            update.updates[key][0], (start[key] - value) / 0.05, rtol=1e-9, atol=1e-9
        )


def test_a_clients_update_does_not_depend_on_its_cohort() -> None:
    learner = Learner.build(replace(SINUSOID, dtype="float64"))
    alone = learner.train(learner.init_state(), 2, [3])
    among = learner.train(learner.init_state(), 2, [1, 3, 8])
    for key, value in alone.updates.items():
        torch.testing.assert_close(among.updates[key][1], value[0], rtol=1e-12, atol=1e-12)


def test_rounds_and_clients_draw_different_tasks() -> None:
    learner = Learner.build(SINUSOID)
    draws = {(r, c): learner.sample(r, c).support_x.numpy().tobytes() for r in (1, 2) for c in (0, 1)}
    assert len(set(draws.values())) == 4


def test_a_message_that_is_not_a_broadcast_is_left_to_the_app() -> None:
    with as_server():
        learner = Learner.build(SINUSOID)
        grid = VectorGrid(learner, InProcess(learner))
        [reply] = grid.send_and_receive([grid.create_message(RecordDict(), "query", 2, "")])
        assert reply.content["config"] == {"partition-id": 0}
        [reply] = grid.send_and_receive([grid.create_message(RecordDict(), "query.other", 2, "")])
        assert "No query function" in str(reply.error.reason)
        [reply] = grid.send_and_receive([grid.create_message(RecordDict(), "train", 2, "")])
        assert "a request needs" in str(reply.error.reason)
        [reply] = grid.send_and_receive([grid.create_message(RecordDict(), "train", 999, "")])
        assert reply.error.reason == "there is no node 999"


def test_pushed_messages_are_answered_once_when_pulled() -> None:
    with as_server():
        learner = Learner.build(SINUSOID)
        grid = VectorGrid(learner, InProcess(learner))
        requests = train_requests(grid, MetaStrategy(learner, Plan(1, 3)), 1)
        ids = list(grid.push_messages(requests))
        replies = list(grid.pull_messages(ids))
        assert [reply.metadata.reply_to_message_id for reply in replies] == ids
        assert len(set(ids)) == 3
        assert list(grid.pull_messages(ids)) == []
        assert all(isinstance(reply.content["arrays"], ArrayRecord) for reply in replies)


def test_a_chunk_is_drawn_together_and_not_client_by_client(monkeypatch: pytest.MonkeyPatch) -> None:
    # The module has the name that the function of the streams of many clients once had.
    import_module("fedmeta.tasks.streams")
    learner = Learner.build(SINUSOID)
    state, clients = learner.init_state(), list(SINUSOID.population.clients("train"))
    alone = TaskBatch.concat([learner.sample(1, client) for client in clients])
    expected = learner.train(state, 1, clients).updates

    def refuse(*_: object) -> None:
        raise AssertionError("drawn one by one")

    monkeypatch.setattr(learner.family, "sample", refuse)
    together = learner.sample_many(1, clients)
    assert together is not None
    for (name, one), (_, other) in zip(together.tensors(), alone.tensors(), strict=True):
        assert torch.equal(one, other), name
    update = learner.train(state, 1, clients)
    assert (update.failures, update.clients) == ({}, clients)
    for key, value in update.updates.items():
        assert torch.equal(value, expected[key])


def test_clients_of_two_splits_are_not_drawn_together() -> None:
    learner = Learner.build(SINUSOID)
    mixed = [SINUSOID.population.clients(split)[0] for split in ("train", "test")]
    assert learner.sample_many(1, mixed) is None
