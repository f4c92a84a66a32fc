"""Sums of clients merge into the mean and confidence intervals of all their tasks."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from scipy import stats

from fedmeta.errors import RunError
from fedmeta.federation import Learner, Plan, RoundRecord, StepResult, Workload
from fedmeta.federation.client import evaluation_reply
from fedmeta.federation.evaluation import EvaluationSums, evaluate_tasks, merge
from fedmeta.federation.federation import EvaluationGate
from fedmeta.federation.flower import as_server, client_error, stamp
from fedmeta.learning import expand_state
from fedmeta.tasks import Measure, Population, TaskBatch, TaskSpec, build_objective, stream
from fedmeta.tasks.families.sinusoid import Sinusoid
from fedmeta.training import evaluate, simulate
from tests.federation.engines.vector.test_stacked import CONV
from tests.federation.helpers import SINUSOID, NoisyImages, assert_same


def summed(*clients: Sequence[float], name: str = "loss") -> list[EvaluationSums]:
    """The sums of clients with these values after one step; NaN and infinity: the task diverged."""
    parts = []
    for values in map(np.array, clients):
        kept = values[np.isfinite(values)]
        sums = {name: [float(kept.sum())]}, {name: [float((kept**2).sum())]}
        parts.append(EvaluationSums(len(values), *sums, [len(values) - len(kept)]))
    return parts


def test_mean_and_interval_over_tasks_are_numpys() -> None:
    rng = np.random.default_rng(1)
    clients = [rng.random(7), rng.random(30), rng.random(2)]
    [result] = merge([3], summed(*clients), MEASURES)
    everything = np.concatenate(clients)
    assert (result.step, result.tasks, result.accuracy) == (3, 39, None)
    assert result.loss == result.finite_loss == pytest.approx(everything.mean(), rel=1e-12)
    half = 1.96 * everything.std(ddof=1) / np.sqrt(39)
    assert result.tasks_ci95 == result.measures["loss"].tasks_ci95 == pytest.approx(half, rel=1e-9)


def test_the_interval_over_clients_is_students_of_the_clients_means() -> None:
    rng = np.random.default_rng(3)
    clients = rng.random((6, 40)) + rng.random((6, 1))
    [result] = merge([0], summed(*clients), MEASURES)
    low, high = stats.t.interval(0.95, 5, clients.mean(), stats.sem(clients.mean(1)))
    assert (result.loss - result.ci95, result.loss + result.ci95) == pytest.approx((low, high))  # type: ignore[operator]
    assert result.measures["loss"].ci95 == result.ci95
    assert (result.clients, result.clients_asked) == (6, 6)


def test_the_interval_over_clients_of_unequal_size_by_hand() -> None:
    """Means 2 and 5 of 1 and 3 tasks: the mean is 17/4, the residuals -9/4 and 9/4, t with one degree of
    freedom is 12.7062: half the interval is 12.7062 sqrt(2 (9/16)^2 + 2 (9/16)^2) = 12.7062 * 9/8."""
    [result] = merge([0], summed([2.0], [4.0, 5.0, 6.0]), MEASURES)
    assert result.loss == 17 / 4
    assert result.ci95 == pytest.approx(12.7062047 * 9 / 8, rel=1e-7)


def test_one_client_tells_nothing_of_other_clients_and_one_task_nothing_of_other_tasks() -> None:
    [one_client] = merge([0], summed([1.0, 2.0, 6.0]), MEASURES)
    assert (one_client.ci95, one_client.measures["loss"].ci95) == (None, None)
    assert one_client.tasks_ci95 is not None
    [one_task] = merge([0], summed([1.0]), MEASURES)
    assert (one_task.loss, one_task.ci95, one_task.tasks_ci95) == (1.0, None, None)


@pytest.mark.parametrize(("clients", "tasks", "spread"), [(6, 100, 1.0), (20, 30, 0.5), (3, 12, 2.0)])
def test_the_interval_over_clients_covers_the_mean_of_all_clients(
    clients: int, tasks: int, spread: float
) -> None:
    """Clients differ by a random effect, in 1,000 experiments: 95% give or take 4 standard deviations of
    a binomial, 3 points. Tasks as if they were independent miss it in more than every fourth one."""
    rng = np.random.default_rng(11)
    effects = rng.normal(5.0, spread, (1000, clients, 1))
    values = effects + rng.standard_normal((1000, clients, tasks))
    results = [merge([0], summed(*experiment), MEASURES)[0] for experiment in values]

    def covered(half: Callable[[StepResult], float | None]) -> float:
        return float(np.mean([abs(one.loss - 5.0) <= (half(one) or 0.0) for one in results]))

    assert covered(lambda one: one.ci95) == pytest.approx(0.95, abs=0.03)
    assert covered(lambda one: one.tasks_ci95) < 0.75


def test_a_task_that_diverged_counts_as_the_worst_and_is_counted() -> None:
    parts = summed([1.0, math.nan, 3.0], [2.0], [math.inf, -math.inf])
    [result] = merge([5], parts, MEASURES)
    assert (result.loss, result.ci95, result.measures["loss"].ci95, result.tasks_ci95) == (
        math.inf,
        None,
        None,
        None,
    )
    assert (result.tasks, result.diverged, result.diverged_clients) == (6, 3, 2)
    assert result.finite_loss == 2.0
    [nothing] = merge([5], summed([math.nan], [math.inf]), MEASURES)
    assert (nothing.loss, nothing.finite_loss, nothing.diverged) == (math.inf, None, 2)


def test_clients_that_did_not_answer_are_reported() -> None:
    [result] = merge([0], summed([1.0], [2.0]), MEASURES, asked=5)
    assert (result.loss, result.clients, result.clients_asked) == (1.5, 2, 5)


def test_the_order_of_clients_does_not_matter() -> None:
    parts = summed(*([value] for value in np.random.default_rng(2).random(50)))
    assert merge([0], parts, MEASURES) == merge([0], parts[::-1], MEASURES)


def test_without_clients_there_is_no_result() -> None:
    assert merge([0, 1], [], MEASURES) == ()


def test_sums_are_those_of_each_task_adapted_alone() -> None:
    learner = Learner.build(replace(SINUSOID, dtype="float64"))
    state = learner.init_state()
    sums = learner.evaluate(state, 15)
    tasks = learner.family.sample(15, 6, stream(SINUSOID.seed, "evaluate", 15)).to(torch.float64)
    for index, step in enumerate(SINUSOID.evaluation_steps):
        losses = []
        for task in range(6):
            one = tasks[task : task + 1]
            rows = expand_state(state, 1)
            adapted = learner.algorithm.adapt(rows, one.support, step)
            prediction = learner.algorithm.predict(rows, adapted, one.query)
            losses.append(float(learner.algorithm.objective.loss(prediction, one.query)[0]))
        assert sums.sums["loss"][index] == pytest.approx(sum(losses), rel=1e-10)
        assert sums.squares["loss"][index] == pytest.approx(sum(x * x for x in losses), rel=1e-10)


def test_batch_norm_is_evaluated_without_transduction_as_well() -> None:
    learner = Learner.build(CONV)
    state = learner.init_state()
    tasks = NoisyImages(None, Population(1), 0).sample(0, 20, np.random.default_rng(0))  # type: ignore[arg-type]
    sums = evaluate_tasks(learner.algorithm, state, tasks, (1,))
    rows = expand_state(state, 20)
    adapted = learner.algorithm.adapt(rows, tasks.support, 1)
    for name, transductive in (("accuracy", True), ("inductive_accuracy", False)):
        prediction = learner.algorithm.predict(rows, adapted, tasks.query, transductive=transductive)
        expected = CLASSIFIED.measure(prediction, tasks.query)["accuracy"].double().sum()
        assert sums.sums[name][0] == pytest.approx(float(expected), abs=1e-4)
    [result] = merge([1], [sums, sums], MEASURES)
    inductive = result.measures["inductive_accuracy"]
    assert inductive.ci95 is not None
    assert inductive.tasks_ci95 is not None


def test_regression_has_no_accuracy_and_its_interval_is_of_the_loss() -> None:
    for result in evaluate(SINUSOID, Learner.build(SINUSOID).init_state(), "test"):
        assert result.accuracy is None
        assert result.inductive is None
        assert result.ci95 == result.measures["loss"].ci95
        assert result.tasks_ci95 == result.measures["loss"].tasks_ci95
        assert result.tasks == 3 * 6


def test_the_same_tasks_are_used_each_time() -> None:
    state = Learner.build(SINUSOID).init_state()
    assert evaluate(SINUSOID, state, "test") == evaluate(SINUSOID, state, "test")
    assert evaluate(SINUSOID, state, "test") != evaluate(SINUSOID, state, "validation")


def test_a_split_without_clients_has_no_results() -> None:
    alone = replace(SINUSOID, population=Population(4))
    assert evaluate(alone, Learner.build(alone).init_state(), "test") == ()


def test_a_split_that_fails_as_a_whole_is_an_error() -> None:
    offline = replace(SINUSOID, task="tests.federation.helpers:Offline")
    with pytest.raises(RunError, match="none of the 3 test clients could be evaluated"):
        evaluate(offline, Learner.build(offline).init_state(), "test")


CLASSIFIED = build_objective(TaskSpec("classification", (1,), 2))
MEASURES = CLASSIFIED.all_measures | {"inductive_accuracy": CLASSIFIED.measures["accuracy"]}
SUMS = EvaluationSums(
    4,
    {"loss": [2.0, 1.0], "accuracy": [3.0, 0.5]},
    {"loss": [1.0, 0.5], "accuracy": [2.5, 0.25]},
    [0, 2],
)


def gate() -> EvaluationGate:
    """A gate that asks each client for 4 tasks, measured after 2 numbers of steps."""
    return EvaluationGate(CLASSIFIED.all_measures, steps=2, tasks=lambda client, round_: 4)


def reply(spoil: Callable[[RecordDict], object] | None = None) -> Message:
    body = evaluation_reply(SUMS, 5)
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
        (lambda b: b["metrics"].update({"num-tasks": 3}), "task count 3"),
        (lambda b: b["metrics"].update({"num-tasks": 0}), "task count 0"),
        (lambda b: b["metrics"].pop("diverged"), "'diverged' is not a list of 2"),
        (lambda b: b["metrics"].update({"diverged": [0]}), "'diverged' is not a list of 2"),
        (
            lambda b: b["metrics"].update({"diverged": [0, 5]}),
            "'diverged' is not a list of counts up to 4",
        ),
        (lambda b: b["metrics"].update({"diverged": [0, -1]}), "'diverged' is not a list of counts"),
        (lambda b: b["metrics"].update({"diverged": [0.0, 0.0]}), "'diverged' is not a list of counts"),
        # A loss of tasks that all diverged; more right answers than tasks; sums without their squares.
        (
            lambda b: b["metrics"].update({"diverged": [0, 4]}),
            "'loss-sum' and 'loss-squares' are not those of 0 values",
        ),
        (
            lambda b: b["metrics"].update({"accuracy-sum": [4.5, 0.5], "accuracy-squares": [9.0, 1.0]}),
            "'accuracy-sum' is not that of 4 values from 0 to 1",
        ),
        (
            lambda b: b["metrics"].update({"accuracy-sum": [3.0, 2.5], "accuracy-squares": [3.0, 3.5]}),
            "'accuracy-sum' is not that of 2 values from 0 to 1",
        ),
        (
            lambda b: b["metrics"].update({"loss-sum": [2.1, 1.0]}),
            "'loss-sum' and 'loss-squares' are not those of 4 values",
        ),
        (
            lambda b: b["metrics"].update({"loss-squares": [1.0, -0.5]}),
            "'loss-sum' and 'loss-squares' are not",
        ),
        (lambda b: b["metrics"].update({"loss-squares": [1.0, float("inf")]}), "'loss-squares' is not"),
        (lambda b: b["metrics"].update({"loss-sum": [1.0]}), "'loss-sum' is not a list of 2"),
        (lambda b: b["metrics"].update({"loss-sum": [1.0, float("nan")]}), "'loss-sum' is not finite"),
        (lambda b: b["metrics"].pop("loss-squares"), "'loss-squares' is not a list of 2"),
        (lambda b: b["config"].update({"round": 4}), "reply to round 4"),
        (lambda b: b.clear(), "no metrics or config"),
    ],
)
def test_a_senseless_evaluation_is_left_out_with_a_warning(
    spoil: Callable[[RecordDict], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        admitted = list(gate().admitted(5, [(0, [reply()]), (1, [reply(spoil)])]))
    assert admitted == [(0, SUMS)]
    assert f"evaluation of client 1 is left out: {reason}" in caplog.text


def test_failed_and_doubled_evaluations_are_left_out() -> None:
    with as_server():
        request = Message(RecordDict(), 2, "evaluate")
    failed = client_error("OSError", request)
    assert list(gate().admitted(5, [(0, [failed]), (1, [reply(), reply()])])) == []


def test_tracked_evaluations_use_other_tasks_than_the_final_test_and_change_nothing() -> None:
    learner = Learner.build(SINUSOID)
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
    assert last == merge(SINUSOID.evaluation_steps, sums, MEASURES)


def steep(learning_rate: float) -> Workload:
    """Sinusoids whose inner loop diverges within 60 steps on some tasks and not on others."""
    setup = replace(SINUSOID.setup, learner={"inner_lr": learning_rate})
    return replace(SINUSOID, setup=setup, evaluation_steps=(0, 1, 60), evaluation_tasks=8)


def test_divergence_at_one_step_does_not_change_a_clients_other_steps() -> None:
    workload = steep(1.0)
    state = Learner.build(workload).init_state()
    before, first, last = evaluate(workload, state, "test")
    short = evaluate(replace(workload, evaluation_steps=(0, 1)), state, "test")
    assert (before, first) == short
    assert 0 < last.diverged < last.tasks == before.tasks == 3 * 8
    assert (last.clients, last.loss, before.diverged) == (3, math.inf, 0)
    # The tasks that went well are those that, one by one, have a finite loss.
    learner, losses = Learner.build(workload), []
    for client in workload.population.clients("test"):
        tasks = learner.evaluation_tasks(client)
        rows = expand_state(state, len(tasks))
        adapted = learner.algorithm.adapt(rows, tasks.support, 60)
        prediction = learner.algorithm.predict(rows, adapted, tasks.query)
        losses += learner.algorithm.objective.loss(prediction, tasks.query).tolist()
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert last.diverged == len(losses) - len(finite)
    assert last.finite_loss == pytest.approx(np.mean(finite))


def test_the_accuracy_of_tasks_that_diverged_is_0_and_not_that_of_the_first_class() -> None:
    """Of logits that are NaN, the largest is the first class: by luck, a third is right."""
    setup = replace(CONV.setup, learner={"inner_lr": 1e30})
    workload = replace(CONV, setup=setup)
    tasks = NoisyImages(None, Population(1), 0).sample(0, 5, np.random.default_rng(0))  # type: ignore[arg-type]
    built = Learner.build(workload)
    sums = evaluate_tasks(built.algorithm, built.init_state(), tasks, (0, 3))
    assert sums.diverged == [0, 5]
    assert (sums.sums["accuracy"][1], sums.sums["inductive_accuracy"][1]) == (0.0, 0.0)
    [before, after] = merge((0, 3), [sums, sums], MEASURES)
    assert after.accuracy == after.measures["inductive_accuracy"].mean == after.ci95 == 0.0
    assert before.accuracy is not None
    assert before.accuracy > 0


@pytest.mark.parametrize(("low", "diverged"), [(0.0, 0), (None, 5)])
def test_an_inductive_prediction_of_nan_is_the_worst_or_diverges_if_there_is_none(
    low: float | None, diverged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Learner.build(CONV)
    algorithm, predict = built.algorithm, built.algorithm.predict

    def broken(*given: Any) -> torch.Tensor:
        return predict(*given, transductive=False) * math.nan

    monkeypatch.setattr(
        algorithm,
        "predict",
        lambda *given, transductive=None: broken(*given) if transductive is False else predict(*given),
    )
    measures = {"accuracy": Measure(higher_is_better=True, low=low)}
    monkeypatch.setattr(algorithm.objective, "measures", measures)
    tasks = NoisyImages(None, Population(1), 0).sample(0, 5, np.random.default_rng(0))  # type: ignore[arg-type]
    sums = evaluate_tasks(algorithm, built.init_state(), tasks, (0,))
    assert sums.diverged == [diverged]
    assert sums.sums["inductive_accuracy"] == [0.0]


class OneOffline(Sinusoid):
    """Sinusoids, but the last client's data are missing."""

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        if client == len(self.population) - 1:
            raise OSError("no disk")
        return super().sample(client, count, rng)


def test_a_client_that_crashes_is_missing_from_the_answers_and_the_row_says_so() -> None:
    broken = replace(SINUSOID, task="tests.federation.test_evaluation:OneOffline")
    state = Learner.build(SINUSOID).init_state()
    for result in evaluate(broken, state, "test"):
        assert (result.clients, result.clients_asked, result.tasks) == (2, 3, 12)
    records: list[RoundRecord] = []
    plan = Plan(rounds=1, cohort=6, evaluate_every=1, track=1)
    simulate(broken, plan, observer=lambda record, _: records.append(record))
    assert records[0].test is not None
    assert records[0].evaluation is not None
    assert [(one.clients, one.clients_asked) for one in records[0].test] == [(2, 3)] * 3
    assert [(one.clients, one.clients_asked) for one in records[0].evaluation] == [(2, 2)] * 3


def test_a_diverged_task_has_the_measures_worst_value() -> None:
    """Of 4 tasks one diverged. An error in [0, 2] of 0.3 in all becomes (0.3 + 2) / 4; a return that
    has no worst is minus infinite, whatever the others are; a share of 2.4 stays 2.4 / 4."""
    measures = {
        "loss": Measure(),
        "return": Measure(higher_is_better=True),
        "error": Measure(low=0.0, high=2.0),
        "share": Measure(True, 0.0, 1.0),
    }
    sums = {"loss": [1.0], "return": [-5.0], "error": [0.3], "share": [2.4]}
    squares = {"loss": [1.0], "return": [9.0], "error": [0.05], "share": [2.0]}
    [found] = merge([0], [EvaluationSums(4, sums, squares, [1])], measures)
    means = {name: one.mean for name, one in found.measures.items()}
    assert means == pytest.approx({"loss": math.inf, "return": -math.inf, "error": 0.575, "share": 0.6})
    # s^2 = (0.05 + 4 - 4 * 0.575^2) / 3
    half = 1.96 * math.sqrt((4.05 - 4 * 0.575**2) / 3 / 4)
    assert found.measures["error"].tasks_ci95 == pytest.approx(half)
    assert (found.main, found.ci95, found.finite_loss) == ("return", None, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("total", "square", "reason"),
    [
        (-4.0, 4.0, None),
        (-4.01, 4.03, "not that of 4 values from -1 to 1"),
        (2.0, 4.1, "not that of 4 values from -1 to 1"),
        (0.0, 0.0, None),
    ],
)
def test_sums_are_held_to_the_bounds_of_their_measure(
    total: float, square: float, reason: str | None
) -> None:
    """A correlation is within -1 and 1; the loss has no bounds."""
    measures = {"loss": Measure(), "correlation": Measure(True, -1.0, 1.0)}
    sums = EvaluationSums(
        4, {"loss": [-8.0], "correlation": [total]}, {"loss": [99.0], "correlation": [square]}, [0]
    )
    with as_server():
        request = Message(RecordDict(), 2, "evaluate")
        stamp(request, "1")
        answer = Message(evaluation_reply(sums, 5), reply_to=request)
    gate = EvaluationGate(measures, steps=1, tasks=lambda client, round_: 4)
    admitted = list(gate.admitted(5, [(0, [answer])]))
    assert len(admitted) == (reason is None)
    assert (reason or "") in (gate.problem or "")
