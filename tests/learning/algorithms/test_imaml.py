"""Oracles: the closed form of a quadratic, and finite differences through converged inner problems."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedmeta.learning import Algorithm
from fedmeta.tasks import TaskBatch, TaskSpec
from tests.learning.cases import (
    CASES,
    Case,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
)

LINEAR = Case("torch.nn:Linear", {"in_features": 3, "out_features": 1}, TaskSpec("regression", (3,), 1))
PROXIMAL = 0.5


def learner_of(case: Case, **options: Any) -> Algorithm:
    return make_learner("imaml", case, inner_lr=0.2, proximal=PROXIMAL, **options)


def design(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def implicit_gradient(theta: Tensor, tasks: TaskBatch, task: int) -> Tensor:
    """The mean squared error of a linear model has the Hessian ``H = 2 X'X / S``.

    Its proximal solution is ``phi = (2 X'X / S + lambda)^-1 (2 X'y / S + lambda theta)``.
    """
    x, y = design(tasks.support_x[task]), tasks.support_y[task, :, 0]
    hessian = 2 * x.T @ x / len(x)
    eye = torch.eye(len(theta), dtype=torch.float64)
    right = 2 * x.T @ y / len(x) + PROXIMAL * theta
    phi = torch.linalg.solve(hessian + PROXIMAL * eye, right)
    x, y = design(tasks.query_x[task]), tasks.query_y[task, :, 0]
    slope = 2 * x.T @ (x @ phi - y) / len(x)
    return torch.linalg.solve(eye + hessian / PROXIMAL, slope)


def error(inner_steps: int, cg_steps: int) -> float:
    learner = learner_of(LINEAR, inner_steps=inner_steps, cg_steps=cg_steps)
    tasks, state = make_tasks(LINEAR.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    worst = 0.0
    for task in range(2):
        theta = torch.cat([state["weight"][task, 0], state["bias"][task]])
        expected = implicit_gradient(theta, tasks, task)
        found = torch.cat([updates["weight"][task, 0], updates["bias"][task]])
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    return worst


def test_on_a_quadratic_the_update_converges_to_the_exact_implicit_gradient() -> None:
    """Conjugate gradient is exact after as many steps as there are weights, here 4."""
    by_steps = [error(steps, 4) for steps in (1, 4, 16, 64, 256)]
    assert by_steps == sorted(by_steps, reverse=True)
    assert by_steps[-1] < 1e-10
    by_cg = [error(256, steps) for steps in (0, 1, 2, 3, 4)]
    assert by_cg == sorted(by_cg, reverse=True)
    assert by_cg[0] > 0.1
    assert error(256, 9) < 1e-10  # steps after the solution is reached change nothing


@pytest.mark.parametrize("name", ["sinusoid-mlp", "image-mlp"])
def test_at_its_solution_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """With a large ``lambda`` the inner problem is convex, and converges in few steps."""
    learner = make_learner(
        "imaml", CASES[name], inner_lr=0.02, proximal=40.0, inner_steps=40, cg_steps=20
    )
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 40), state, updates)
    assert float(metrics["loss"].sum()) == pytest.approx(loss_after(learner, state, tasks, 40))


@pytest.mark.parametrize("transductive", [True, False])
def test_conjugate_gradient_solves_the_system_of_the_full_hessian(transductive: bool) -> None:
    """The Hessian of a network with batch norm by `torch.autograd.functional`, at any weights."""
    options = {"inner_lr": 1e-4, "proximal": 2000.0, "inner_steps": 2, "cg_steps": 40}
    learner = make_learner("imaml", Case("conv4", {"width": 2}), transductive, **options)
    tasks, state = make_tasks(learner.spec, tasks=1), make_state(learner, tasks=1)
    updates, _ = learner.task_updates(state, tasks)
    adapted = learner.adapt(state, tasks.support, 2)
    flat = torch.cat([adapted[key].flatten() for key in state])

    def weights(at: Tensor) -> dict[str, Tensor]:
        parts = at.split([value.numel() for value in state.values()])
        return {key: part.view_as(state[key]) for key, part in zip(state, parts, strict=True)}

    def support_loss(at: Tensor) -> Tensor:
        prediction = learner.model.forward(weights(at), tasks.support_x)
        return learner.objective.loss(prediction, tasks.support).sum()

    def query_loss(at: Tensor) -> Tensor:
        x, rows = tasks.query_x, 0
        if not transductive:
            rows, x = tasks.support_x.shape[1], torch.cat([tasks.support_x, x], 1)
        prediction = learner.model.forward(weights(at), x, rows or None)[:, rows:]
        return learner.objective.loss(prediction, tasks.query).sum()

    hessian = torch.autograd.functional.hessian(support_loss, flat)
    slope = torch.autograd.functional.jacobian(query_loss, flat)
    system = torch.eye(len(flat), dtype=torch.float64) + hessian / options["proximal"]
    expected = torch.linalg.solve(system, slope)
    found = torch.cat([updates[key].flatten() for key in state])
    assert float((found - expected).norm() / expected.norm()) < 1e-9
    assert float((slope - expected).norm() / expected.norm()) > 1e-4


def test_without_steps_of_conjugate_gradient_it_is_the_query_gradient_at_the_adapted_weights() -> None:
    learner = learner_of(CASES["lstm"], inner_steps=3, cg_steps=0)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    adapted = learner.adapt(state, tasks.support, 3)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), adapted, updates)


def test_a_task_that_is_not_convex_keeps_a_finite_update() -> None:
    learner = make_learner("imaml", CASES["image-mlp"], proximal=1e-3, inner_lr=2.0, cg_steps=30)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert all(bool(value.isfinite().all()) for value in updates.values())
