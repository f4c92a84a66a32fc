import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from fedmeta.errors import ConfigError, DataError
from fedmeta.federation import Learner, Plan, RoundRecord, ServerOptions, Workload
from fedmeta.learning import AlgorithmSetup, expand_state
from fedmeta.tasks import Population, TaskSpec
from fedmeta.training import evaluate, simulate
from tests.learning.cases import (
    CASES,
    Case,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
)

IDENTITY = Case(
    "torch.nn:Linear", {"in_features": 2, "out_features": 2}, TaskSpec("classification", (2,), 2)
)
WIDE = TaskSpec("classification", (1, 12, 12), 8)


def identity_state(tasks: int = 1) -> dict[str, torch.Tensor]:
    return expand_state({"weight": torch.eye(2).double(), "bias": torch.zeros(2).double()}, tasks)


def test_logits_are_negative_squared_distances_to_class_means() -> None:
    """Means of (0,0), (2,0) and of (0,3): (1,0) and (0,3); from (1,1) the squared distances are 1, 5."""
    learner = make_learner("protonet", IDENTITY)
    x = torch.tensor([[[0.0, 0.0], [0.0, 3.0], [2.0, 0.0]]]).double()
    adapted = learner.adapt(identity_state(), {"x": x, "y": torch.tensor([[0, 1, 0]])}, steps=0)
    torch.testing.assert_close(adapted["prototypes"], torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]).double())
    asked = {"x": torch.tensor([[[1.0, 1.0]]]).double()}
    logits = learner.predict(identity_state(), adapted, asked)
    torch.testing.assert_close(logits, torch.tensor([[[-1.0, -5.0]]]).double())


@pytest.mark.parametrize(("ways", "shots", "shape"), [(2, 1, (3,)), (5, 1, (8, 8)), (4, 3, (1, 4, 5))])
def test_without_layers_it_is_the_nearest_class_mean_of_raw_inputs(
    ways: int, shots: int, shape: tuple[int, ...]
) -> None:
    spec = TaskSpec("classification", shape, ways)
    learner = make_learner("protonet", Case("mlp", {"hidden": []}, spec))
    tasks = make_tasks(spec, tasks=3, support=ways * shots, query=20)
    adapted = learner.adapt({}, tasks.support, steps=0)
    chosen = learner.predict({}, adapted, tasks.query).argmax(-1).numpy()
    for task in range(3):
        x, y = tasks.support_x[task].flatten(1).numpy(), tasks.support_y[task].numpy()
        means = np.stack([x[y == label].mean(0) for label in range(ways)])
        nearest = cdist(tasks.query_x[task].flatten(1).numpy(), means).argmin(1)
        np.testing.assert_array_equal(chosen[task], nearest)


def test_update_follows_the_closed_form_of_a_linear_embedding() -> None:
    """For z = W x and one support example s_k a class, with d_k = x_q - s_k and logits -|W d_k|^2:
    dL/dW = -1/Q sum_q sum_k (p_k - 1[k = y]) 2 W d_k d_k' (Snell et al. 2017, equation 2).
    """
    learner = make_learner("protonet", IDENTITY)
    tasks, state = make_tasks(IDENTITY.spec, tasks=1, support=2, query=4), make_state(learner, tasks=1)
    weight = state["weight"][0]
    expected = torch.zeros_like(weight)
    for x, y in zip(tasks.query_x[0], tasks.query_y[0], strict=True):
        gaps = [x - s for s in tasks.support_x[0]]
        scores = torch.stack([-(weight @ gap).square().sum() for gap in gaps]).exp()
        for k, gap in enumerate(gaps):
            error = scores[k] / scores.sum() - float(k == int(y))
            expected -= error * 2 * torch.outer(weight @ gap, gap) / len(tasks.query_x[0])
    updates, _ = learner.task_updates(state, tasks)
    torch.testing.assert_close(updates["weight"][0], expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(updates["bias"], torch.zeros(1, 2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("transductive", [True, False])
def test_update_is_the_derivative_of_the_query_loss(transductive: bool) -> None:
    learner = make_learner("protonet", CASES["conv4-max"], transductive)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)


def test_a_task_may_have_more_ways_than_those_of_training() -> None:
    learner = make_learner("protonet", CASES["conv4-max"])
    wide = make_tasks(WIDE, support=8, query=8)
    state = make_state(learner)
    adapted = learner.adapt(state, wide.support, steps=0)
    assert learner.predict(state, adapted, wide.query).shape == (2, 8, 8)


def test_ways_that_only_test_has_change_nothing_in_training() -> None:
    """Conv4 embeds without a head, so that a learner for 3 ways and one for 8 have the same state."""
    learner = make_learner("protonet", CASES["conv4-max"])
    wide = make_learner("protonet", replace(CASES["conv4-max"], spec=WIDE))
    tasks, state = make_tasks(learner.spec), make_state(learner)
    for expected, actual in zip(
        learner.task_updates(state, tasks), wide.task_updates(state, tasks), strict=True
    ):
        for key, value in expected.items():
            torch.testing.assert_close(actual[key], value, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("model", "network"),
    [
        ("mlp", {"hidden": [16]}),
        ("torch.nn:Linear", {"in_features": 64, "out_features": 16}),
    ],
)
def test_digits_with_more_ways_at_test_than_in_training_are_learned(
    model: str, network: dict[str, Any]
) -> None:
    """Untrained, the loss is that of a random embedding; guessing is right once in five."""
    workload = Workload(
        task="digits",
        data={"ways": 5, "test_ways": 8, "queries": 3},
        population=Population(8, 0, 2),
        setup=AlgorithmSetup("protonet", {}, model, network),
        seed=0,
        evaluation_tasks=20,
        evaluation_steps=(0,),
    )
    records: list[RoundRecord] = []
    server = ServerOptions(lr=0.01)
    plan = Plan(rounds=40, cohort=8, server=server)
    after = simulate(workload, plan, observer=lambda record, _: records.append(record))
    losses = [record.loss for record in records]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    [tested] = evaluate(workload, after.state, "test")
    [untrained] = evaluate(workload, Learner.build(workload).init_state(), "test")
    assert tested.loss < untrained.loss


def test_steps_change_nothing() -> None:
    learner = make_learner("protonet", CASES["conv4-stride"])
    tasks, state = make_tasks(learner.spec), make_state(learner)
    found = [adapted for _, adapted in learner.trajectory(state, tasks.support, [0, 5])]
    assert torch.equal(found[0]["prototypes"], found[1]["prototypes"])


def test_a_label_without_support_is_refused() -> None:
    learner = make_learner("protonet", IDENTITY)
    support = {"x": torch.zeros(1, 2, 2).double(), "y": torch.tensor([[0, 2]])}
    with pytest.raises(DataError, match="task 0 has no support example of label 1"):
        learner.adapt(identity_state(), support, steps=0)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="one label per example"):
        make_learner("protonet", CASES[name])
