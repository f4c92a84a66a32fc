"""Oracles: finite differences, and the paper's rule for a single task by `torch.nn.LSTMCell`."""

import pytest
import torch
from torch import Tensor, nn

from fedmeta.learning import Algorithm, Tensors
from fedmeta.learning.algorithms import lstm_optimizer
from fedmeta.learning.layers import preprocessed
from fedmeta.tasks import TaskBatch
from tests.learning.algorithms.test_maml import loss_of
from tests.learning.cases import (
    CASES,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
    relative_error,
)
from tests.learning.reference import from_module, to_module

HIDDEN, STEPS = 3, 3


def learner_of(name: str, transductive: bool = True) -> Algorithm:
    options = {"hidden": HIDDEN, "inner_steps": STEPS, "inner_lr": 0.1}
    return make_learner("lstm_optimizer", CASES[name], transductive, **options)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "conv4-stride", "lstm"])
def test_weights_and_updates_are_those_of_the_rule_for_one_task(name: str) -> None:
    learner = learner_of(name)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    adapted = learner.adapt(state, tasks.support, STEPS)
    for task in range(2):
        own = {key: value[task].clone().requires_grad_() for key, value in state.items()}
        weights, loss = written_out(name, own, tasks, task)
        expected = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
        found = {key: value[task] for key, value in updates.items()}
        assert relative_error(found, dict(zip(own, expected, strict=True))) < 1e-9
        assert relative_error({key: adapted[key][task] for key in weights}, weights) < 1e-9


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("name", ["sinusoid-mlp", "conv4-stride"])
def test_with_second_derivatives_the_update_is_the_derivative_of_the_loss_after_adaptation(
    name: str, transductive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(name, transductive)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    constant, _ = learner.task_updates(state, tasks)
    monkeypatch.setattr(type(learner), "second_order", True)
    updates, metrics = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, STEPS), state, updates)
    assert float(metrics["loss"].sum()) == pytest.approx(loss_after(learner, state, tasks, STEPS))
    assert relative_error(constant, updates) > 1e-4


def test_tasks_computed_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of("sinusoid-mlp")
    tasks, state = make_tasks(learner.spec, tasks=3), make_state(learner, tasks=3)
    whole = learner.task_updates(state, tasks)
    monkeypatch.setattr(lstm_optimizer, "COORDINATES", 2 * 69 * STEPS)
    parts = learner.task_updates(state, tasks)
    assert all(relative_error(*pair) < 1e-12 for pair in zip(parts, whole, strict=True))


def test_before_training_it_is_gradient_descent_with_a_little_decay() -> None:
    learner = make_learner("lstm_optimizer", CASES["sinusoid-mlp"], inner_lr=0.1, keep=0.99)
    state = learner.init(torch.Generator().manual_seed(0))
    still = {
        key: torch.zeros_like(v) for key, v in state.items() if key.endswith("weight") and "@" in key
    }
    state = {key: value.double()[None] for key, value in (state | still).items()}
    tasks = make_tasks(learner.spec, tasks=1)
    weights = learner.weights(state)  # type: ignore[attr-defined]
    moved = {key: value.clone().requires_grad_() for key, value in weights.items()}
    slope = learner.objective.gradient(learner.model, moved, tasks.support).values
    adapted = learner.adapt(state, tasks.support, 1)
    for key, value in weights.items():
        torch.testing.assert_close(adapted[key], 0.99 * value - 0.1 * slope[key], rtol=1e-6, atol=1e-7)


def written_out(name: str, own: Tensors, tasks: TaskBatch, task: int) -> tuple[Tensors, Tensor]:
    """Take the steps of section 3 for one task; return its weights and its query loss."""
    rule = {key.removeprefix("@rule."): value for key, value in own.items() if key.startswith("@rule.")}
    start = {key: value for key, value in own.items() if not key.startswith("@rule.")}
    spec, shapes = CASES[name].spec, {key: value.shape for key, value in start.items()}
    cell = nn.LSTMCell(4, HIDDEN, dtype=torch.float64)
    loaded = {
        "weight_ih": rule["lstm.weight"].T,
        "weight_hh": rule["lstm.recurrent"].T,
        "bias_ih": rule["lstm.bias"],
        "bias_hh": torch.zeros(4 * HIDDEN, dtype=torch.float64),
    }
    flat = torch.cat([value.flatten() for value in start.values()])
    hidden = memory = torch.zeros(len(flat), HIDDEN, dtype=torch.float64)
    forget = enter = torch.zeros(len(flat), 1, dtype=torch.float64)

    def parts(row: Tensor) -> Tensors:
        pieces = row.split([shape.numel() for shape in shapes.values()])
        return {k: one.view(shape) for (k, shape), one in zip(shapes.items(), pieces, strict=True)}

    for _ in range(STEPS):
        weights = {key: value.detach() for key, value in parts(flat).items()}
        module = to_module(name, weights)
        loss = loss_of(spec, module, tasks.support_x[task], tasks.support_y[task])
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        named = from_module(name, list(slopes), weights)
        gradient = torch.cat([named[key].flatten() for key in shapes])
        seen = torch.cat(
            [preprocessed(gradient, 10.0), preprocessed(loss.detach().expand(len(flat)), 10.0)], 1
        )
        hidden, memory = torch.func.functional_call(cell, loaded, (seen, (hidden, memory)))
        known = torch.cat([hidden, flat[:, None]], 1)
        forget = torch.sigmoid(
            torch.cat([known, forget], 1) @ rule["forget.weight"] + rule["forget.bias"]
        )
        enter = torch.sigmoid(torch.cat([known, enter], 1) @ rule["input.weight"] + rule["input.bias"])
        flat = forget[:, 0] * flat - enter[:, 0] * gradient
    learner = learner_of(name)
    adapted = {key: value[None] for key, value in parts(flat).items()}
    query = tasks[task : task + 1].query
    prediction = learner.model.forward(adapted, query["x"])
    return {k: v[0].detach() for k, v in adapted.items()}, learner.objective.loss(prediction, query)[0]
