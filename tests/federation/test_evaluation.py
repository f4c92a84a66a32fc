"""Sums of clients merge into the mean and confidence interval of all their tasks."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict

from fedmeta.errors import RunError
from fedmeta.federation import Plan, RoundRecord, evaluate, simulate
from fedmeta.federation.client import ReplyWriter
from fedmeta.federation.evaluation import EvaluationSums, evaluate_tasks, merge
from fedmeta.federation.flower import as_server, client_error, stamp
from fedmeta.federation.server.evaluation_replies import EvaluationGate
from fedmeta.learning import expand_state, per_task_accuracy, per_task_loss
from fedmeta.tasks import Population, stream
from tests.federation.helpers import SINUSOID, NoisyImages, assert_same
from tests.federation.test_stacked import CONV


def test_mean_and_interval_are_numpys_over_all_tasks() -> None:
    rng = np.random.default_rng(1)
    clients = [rng.random(7), rng.random(30), rng.random(2)]
    parts = [
        EvaluationSums(len(v), {"loss": [float(v.sum())]}, {"loss": [float((v**2).sum())]})
        for v in clients
    ]
    [result] = merge([3], parts)
    everything = np.concatenate(clients)
    assert (result.step, result.tasks, result.accuracy) == (3, 39, None)
    assert result.loss == pytest.approx(everything.mean(), rel=1e-12)
    assert result.ci95 == pytest.approx(1.96 * everything.std(ddof=1) / np.sqrt(39), rel=1e-9)
    assert result.loss_ci95 == result.ci95


def test_the_order_of_clients_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    parts = [EvaluationSums(3, {"loss": [float(x)]}, {"loss": [float(x * x)]}) for x in rng.random(50)]
    assert merge([0], parts) == merge([0], parts[::-1])


def test_no_client_is_no_result() -> None:
    assert merge([0, 1], []) == ()


def test_sums_are_those_of_each_task_adapted_alone() -> None:
    learner = replace(SINUSOID, dtype="float64").build()
    state = learner.init_state()
    sums = learner.evaluate(state, 15)
    tasks = learner.family.sample(15, 6, stream(SINUSOID.seed, "evaluate", 15)).to(torch.float64)
    for index, step in enumerate(SINUSOID.evaluation_steps):
        losses = []
        for task in range(6):
            one = tasks[task : task + 1]
            rows = expand_state(state, 1)
            adapted = learner.algorithm.adapt(rows, one.support_x, one.support_y, step)
            prediction = learner.algorithm.predict(rows, adapted, one.query_x)
            losses.append(float(per_task_loss(learner.family.spec, prediction, one.query_y)[0]))
        assert sums.sums["loss"][index] == pytest.approx(sum(losses), rel=1e-10)
        assert sums.squares["loss"][index] == pytest.approx(sum(x * x for x in losses), rel=1e-10)


def test_batch_norm_is_evaluated_without_transduction_as_well() -> None:
    learner = CONV.build()
    state = learner.init_state()
    tasks = NoisyImages(None, Population(1), 0).sample(0, 20, np.random.default_rng(0))  # type: ignore[arg-type]
    sums = evaluate_tasks(learner.algorithm, state, tasks, (1,))
    rows = expand_state(state, 20)
    adapted = learner.algorithm.adapt(rows, tasks.support_x, tasks.support_y, 1)
    for name, transductive in (("accuracy", True), ("inductive_accuracy", False)):
        prediction = learner.algorithm.predict(rows, adapted, tasks.query_x, transductive=transductive)
        expected = per_task_accuracy(prediction, tasks.query_y).double().sum()
        assert sums.sums[name][0] == pytest.approx(float(expected), abs=1e-4)
    [result] = merge([1], [sums])
    assert result.inductive_accuracy is not None
    assert result.inductive_ci95 is not None


def test_regression_has_no_accuracy_and_its_interval_is_of_the_loss() -> None:
    for result in evaluate(SINUSOID, SINUSOID.build().init_state(), "test"):
        assert result.accuracy is None
        assert result.inductive_accuracy is None
        assert result.ci95 == result.loss_ci95 > 0
        assert result.tasks == 3 * 6


def test_the_same_tasks_are_used_each_time() -> None:
    state = SINUSOID.build().init_state()
    assert evaluate(SINUSOID, state, "test") == evaluate(SINUSOID, state, "test")
    assert evaluate(SINUSOID, state, "test") != evaluate(SINUSOID, state, "validation")


def test_a_split_without_clients_has_no_results() -> None:
    alone = replace(SINUSOID, population=Population(4))
    assert evaluate(alone, alone.build().init_state(), "test") == ()


def test_a_split_that_fails_as_a_whole_is_an_error() -> None:
    offline = replace(SINUSOID, task="tests.federation.helpers:Offline")
    with pytest.raises(RunError, match="none of the 3 test clients could be evaluated"):
        evaluate(offline, offline.build().init_state(), "test")


def reply(spoil: Callable[[RecordDict], object] | None = None) -> Message:
    body = ReplyWriter.evaluation(EvaluationSums(4, {"loss": [2.0, 1.0]}, {"loss": [1.0, 0.5]}), 5)
    if spoil:
        spoil(body)
    with as_server():
        request = Message(RecordDict(), 2, "evaluate")
        stamp(request, "1")
        return Message(body, reply_to=request)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: b["metrics"].update({"num-tasks": 5}), "task count 5"),
        (lambda b: b["metrics"].update({"num-tasks": 0}), "task count 0"),
        (lambda b: b["metrics"].update({"loss-sum": [1.0]}), "'loss-sum' is no list of 2"),
        (lambda b: b["metrics"].update({"loss-sum": [1.0, float("nan")]}), "'loss-sum' is not finite"),
        (lambda b: b["metrics"].pop("loss-squares"), "'loss-squares' is no list of 2"),
        (lambda b: b["config"].update({"round": 4}), "reply to round 4"),
        (lambda b: b.clear(), "no metrics or config"),
    ],
)
def test_a_senseless_evaluation_is_left_out_with_a_warning(
    spoil: Callable[[RecordDict], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = EvaluationGate(["loss"], steps=2, tasks=4)
    with caplog.at_level(logging.WARNING):
        admitted = list(gate.admitted(5, [(0, [reply()]), (1, [reply(spoil)])]))
    assert admitted == [(0, EvaluationSums(4, {"loss": [2.0, 1.0]}, {"loss": [1.0, 0.5]}))]
    assert f"evaluation of client 1 is left out: {reason}" in caplog.text


def test_failed_and_doubled_evaluations_are_left_out() -> None:
    gate = EvaluationGate(["loss"], steps=2, tasks=4)
    with as_server():
        request = Message(RecordDict(), 2, "evaluate")
    failed = client_error("OSError", request)
    assert list(gate.admitted(5, [(0, [failed]), (1, [reply(), reply()])])) == []


def test_looks_at_test_clients_use_other_tasks_than_the_final_test_and_change_nothing() -> None:
    learner = SINUSOID.build()
    client = SINUSOID.population.clients("test")[0]
    final, look = learner.evaluation_tasks(client), learner.evaluation_tasks(client, 3)
    assert (len(final), len(look)) == (SINUSOID.evaluation_tasks, SINUSOID.track_tasks)
    assert not torch.isin(look.support_x, final.support_x).any()
    assert torch.equal(look.query_x, learner.evaluation_tasks(client, 9).query_x)

    records: list[RoundRecord] = []
    plan = Plan(rounds=4, cohort=6, evaluate_every=4, track=2)
    tracked = simulate(SINUSOID, plan, observer=lambda record, _: records.append(record))
    plain = simulate(SINUSOID, replace(plan, track=0), observer=lambda *_: None)
    assert_same(tracked.state, plain.state)
    assert [record.test is not None for record in records] == [False, True, False, True]
    assert [record.evaluation is not None for record in records] == [False, False, False, True]
    last = records[-1].test
    assert last is not None
    assert last[0].tasks == 3 * SINUSOID.track_tasks
    sums = [learner.evaluate(tracked.state, c, 4) for c in SINUSOID.population.clients("test")]
    assert last == merge(SINUSOID.evaluation_steps, sums)
