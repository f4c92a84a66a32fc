"""Oracles: finite differences, and the paper's loop written out with a graph through all steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedmeta.learning import Algorithm, LocalWork, Tensors, expand_state
from fedmeta.learning.algorithms.maml_pp import MAMLPP
from fedmeta.tasks import TaskBatch
from tests.learning.cases import (
    CASES,
    Case,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
    relative_error,
)

STEPS = 3


def learner_of(case: Case, transductive: bool = True, **options: Any) -> MAMLPP:
    made = make_learner("maml_pp", case, transductive, inner_lr=0.1, inner_steps=STEPS, **options)
    assert isinstance(made, MAMLPP)
    return made


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("name", ["sinusoid-mlp", "conv4-max", "lstm", "user-module"])
def test_the_last_steps_gradient_is_the_derivative_of_the_loss_after_adaptation(
    name: str, transductive: bool
) -> None:
    learner = learner_of(CASES[name], transductive)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    assert all(bool(value.any()) for value in updates.values())
    assert_gradient(lambda at: loss_after(learner, at, tasks, STEPS), state, updates)
    assert float(metrics["loss"].sum()) == pytest.approx(loss_after(learner, state, tasks, STEPS))


@pytest.mark.parametrize("round_", [1, 6, 10])
@pytest.mark.parametrize("name", ["sinusoid-mlp", "conv4-stride"])
def test_a_rounds_update_is_that_of_the_weighted_losses_of_all_steps(name: str, round_: int) -> None:
    learner = learner_of(CASES[name], multi_step_rounds=6, first_order_rounds=0)
    found, expected = both_updates(learner, CASES[name], round_, create_graph=True)
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize("round_", [1, 4])
def test_the_first_rounds_leave_out_second_derivatives(round_: int) -> None:
    learner = learner_of(CASES["conv4-stride"], multi_step_rounds=6, first_order_rounds=3)
    found, expected = both_updates(learner, CASES["conv4-stride"], round_, create_graph=round_ > 3)
    assert relative_error(found, expected) < 1e-9
    _, other = both_updates(learner, CASES["conv4-stride"], round_, create_graph=round_ <= 3)
    assert relative_error(found, other) > 1e-3


def test_early_steps_lose_their_weight_over_the_rounds() -> None:
    learner = learner_of(CASES["sinusoid-mlp"], multi_step_rounds=6)
    assert learner.importance(1) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert learner.importance(4) == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert learner.importance(7) == learner.importance(99) == [0, 0, 1]


def test_steps_beyond_those_of_training_have_the_last_rates() -> None:
    learner = learner_of(CASES["sinusoid-mlp"])
    tasks, state = make_tasks(learner.spec), make_state(learner)
    found = learner.adapt(state, tasks.support, STEPS + 2)
    longer = make_learner("maml_pp", CASES["sinusoid-mlp"], inner_steps=STEPS + 2)
    rates = {
        key: torch.cat([value, value[:, -1:], value[:, -1:]], 1)
        for key, value in state.items()
        if key.startswith("lr.")
    }
    expected = longer.adapt(state | rates, tasks.support, STEPS + 2)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def both_updates(
    learner: MAMLPP, case: Case, round_: int, create_graph: bool
) -> tuple[Tensors, Tensors]:
    """Return the update of two clients with a task each, and that of a loop with one large graph."""
    tasks, state = make_tasks(case.spec), make_state(learner, tasks=1)
    start = expand_state({key: value[0] for key, value in state.items()}, 2)
    work = LocalWork([0, 1], tasks, 1, 0.1, learner.task_updates, round=round_)
    update, _, _ = learner.local_update(start, {}, work)
    return update, written_out(learner, start, tasks, learner.importance(round_), create_graph)


def written_out(
    learner: Algorithm, state: Tensors, tasks: TaskBatch, importance: list[float], create_graph: bool
) -> Tensors:
    source = {key: value.clone().requires_grad_() for key, value in state.items()}
    rates = {key: value for key, value in source.items() if key.startswith("lr.")}
    weights = {key: value for key, value in source.items() if key not in rates}
    total: Tensor | float = 0.0
    for step, weight in enumerate(importance):
        loss = loss_at(learner, weights, tasks.support)
        slope = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
        weights = {
            key: weights[key] - rates[f"lr.{key}"][:, step].view(-1, *[1] * (grad.dim() - 1)) * grad
            for key, grad in zip(weights, slope, strict=True)
        }
        total = total + weight * loss_at(learner, weights, tasks.query)
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, list(source.values()))
    return dict(zip(source, found, strict=True))


def loss_at(learner: Algorithm, weights: Tensors, examples: Tensors) -> Tensor:
    prediction = learner.model.forward(weights, examples["x"])
    return learner.objective.loss(prediction, examples).sum()
