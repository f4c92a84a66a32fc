"""What every objective computes: values on the task axis, gradients, and Hessian-vector products."""

from dataclasses import replace

import pytest
import torch

from fedmeta.errors import ConfigError, DataError
from fedmeta.learning import Tensors, build_model
from fedmeta.tasks import Measure, TaskBatch, TaskSpec, build_objective, padded
from fedmeta.tasks.objective import Objective
from tests.learning.cases import (
    CASES,
    DESCENT,
    EMBEDDING,
    assert_gradient,
    make_learner,
    make_state,
    make_tasks,
    relative_error,
    takes,
)

SMOOTH = ["sinusoid-mlp", "image-mlp", "lstm", "conv4-stride"]


class Lengths(Objective):
    """The loss is the mean absolute output; only loaded by its path."""

    def loss(self, prediction: torch.Tensor, examples: object) -> torch.Tensor:
        return prediction.abs().flatten(1).mean(1)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    learner = make_learner("maml", CASES[name])
    tasks, state = make_tasks(learner.spec), make_state(learner)
    objective, model = learner.objective, learner.model

    def loss(params: Tensors) -> float:
        return float(objective.loss(objective.forward(model, params, tasks.query), tasks.query).sum())

    leaves = {key: value.clone().requires_grad_() for key, value in state.items()}
    found = objective.gradient(model, leaves, tasks.query)
    assert_gradient(loss, state, found.values)
    assert float(found.loss.detach().sum()) == pytest.approx(loss(state))
    assert torch.equal(found.prediction, model.forward(leaves, tasks.query_x))


@pytest.mark.parametrize("name", SMOOTH)
def test_a_hessian_vector_product_is_the_change_of_the_gradient(name: str) -> None:
    """``H v`` is the derivative of ``grad L(theta + h v)`` by h, task by task, at h = 0."""
    learner = make_learner("maml", CASES[name])
    tasks, state = make_tasks(learner.spec), make_state(learner)
    vector = make_state(learner, seed=5)
    width = 1e-5 if name != "conv4-stride" else 1e-7

    def gradient(by: float) -> Tensors:
        moved = {key: (value + by * vector[key]).requires_grad_() for key, value in state.items()}
        return learner.objective.gradient(learner.model, moved, tasks.support).values

    ahead, behind = gradient(width), gradient(-width)
    expected = {key: (ahead[key] - behind[key]) / (2 * width) for key in state}
    found = learner.objective.hvp(learner.model, state, tasks.support, vector)
    assert relative_error(found, expected) < 1e-6
    assert not any(value.requires_grad for value in found.values())


RAGGED = [*DESCENT, *(name for name in EMBEDDING if name != "gnn")]
"""The graph network has batch norm of its own, and refuses padding."""


@pytest.mark.parametrize("algorithm", RAGGED)
@pytest.mark.parametrize("name", ["sinusoid-mlp", "image-mlp", "lstm"])
def test_a_ragged_batch_is_the_tasks_done_one_by_one(algorithm: str, name: str) -> None:
    case = CASES[name]
    if not takes(algorithm, case):
        pytest.skip(f"{algorithm} is not for such tasks")
    steps = {} if algorithm in (*EMBEDDING, "fedavg") else {"inner_steps": 2}
    learner = make_learner(algorithm, case, **steps)
    sizes = [6, 3, 5]
    alone = [make_tasks(case.spec, 1, size, 6, seed=size) for size in sizes]
    ragged = TaskBatch(
        padded([{key: value[0] for key, value in one.support.items()} for one in alone], 7),
        TaskBatch.concat([replace(one, support=one.query) for one in alone]).query,
    )
    state = make_state(learner, tasks=3)
    updates, metrics = learner.task_updates(state, ragged)
    adapted = learner.adapt(state, ragged.support, 2)
    said = learner.predict(state, adapted, ragged.query)
    for task, one in enumerate(alone):
        own = {key: value[task : task + 1] for key, value in state.items()}
        expected, measured = learner.task_updates(own, one)
        row = {key: value[task : task + 1] for key, value in updates.items()}
        assert relative_error(row, expected) < 1e-12
        assert {k: float(v[task]) for k, v in metrics.items()} == pytest.approx(
            {k: float(v[0]) for k, v in measured.items()}, rel=1e-12
        )
        answer = learner.predict(own, learner.adapt(own, one.support, 2), one.query)
        torch.testing.assert_close(said[task : task + 1], answer, rtol=1e-12, atol=1e-12)


def test_padding_does_not_count() -> None:
    learner = make_learner("maml", CASES["sinusoid-mlp"])
    tasks, state = make_tasks(learner.spec), make_state(learner)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    found = []
    for odd in (0.0, 1e6):
        x = tasks.support_x.where(mask.unsqueeze(-1), odd)
        batch = TaskBatch({"x": x, "y": tasks.support_y, "mask": mask}, tasks.query)
        found.append(learner.task_updates(state, batch)[0])
    assert all(torch.equal(found[0][key], found[1][key]) for key in state)


def test_batch_norm_and_minibatches_refuse_padding() -> None:
    ragged = padded([{"x": torch.zeros(2, 1, 12, 12).double(), "y": torch.tensor([0, 1])}], 3)
    conv = make_learner("maml", CASES["conv4-stride"])
    with pytest.raises(DataError, match="padding would enter its statistics"):
        conv.adapt(make_state(conv, 1), ragged, 1)
    reptile = make_learner("reptile", CASES["image-mlp"], inner_batch=2)
    with pytest.raises(DataError, match="inner_batch needs tasks of equal size"):
        reptile.adapt(make_state(reptile, 1), ragged, 1)


def test_an_objective_is_named_by_its_file_its_path_or_as_its_class() -> None:
    path = f"{__name__}:Lengths"
    assert TaskSpec(Lengths, (1,), 1).objective == path  # type: ignore[arg-type]
    assert isinstance(build_objective(TaskSpec(path, (1,), 1)), Lengths)
    named = {name: build_objective(TaskSpec(name, (1,), 1)) for name in ("classification", "regression")}
    assert TaskSpec(type(named["regression"]), (1,), 1).objective == "regression"  # type: ignore[arg-type]
    assert [one.main for one in named.values()] == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clasification", "unknown objective 'clasification'.*classification"),
        ("torch.nn:Linear", "'torch.nn:Linear' is not a subclass of fedmeta.tasks.Objective"),
        ("tests.tasks.test_objective:Weights", "no 'Weights' there"),
    ],
)
def test_a_part_that_is_not_an_objective_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        build_objective(TaskSpec(name, (1,), 1))
    assert "\n" not in str(refusal.value)


def test_a_measure_declares_its_worst_value_and_rounding_tolerance() -> None:
    share, error, gain = Measure(True, 0.0, 1.0), Measure(False, 0.0, 2.0), Measure(True)
    assert [share.worst, error.worst, gain.worst] == [0.0, 2.0, None]
    assert share.bounds(0.1) == (0.0, pytest.approx(1.1))
    assert Measure(True, -1.0, 1.0).bounds(0.1) == pytest.approx((-1.1, 1.1))
    assert gain.bounds() == (-float("inf"), float("inf"))


def test_the_same_network_serves_any_objective() -> None:
    spec = TaskSpec(f"{__name__}:Lengths", (3,), 2)
    model = build_model("mlp", {"hidden": []}, spec, 2)
    params = {"head.weight": torch.ones(1, 3, 2), "head.bias": torch.zeros(1, 2)}
    assert model.init(torch.Generator()).keys() == params.keys()
    objective = build_objective(spec)
    half = {"x": torch.tensor([[[1.0, -2.0, 4.0]]])}
    assert objective.loss(objective.forward(model, params, half), half).tolist() == [3.0]
