import higher
import pytest
import torch
from torch import Tensor, nn

from fedmeta.learning import Tensors
from fedmeta.tasks import TaskBatch, TaskSpec
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
from tests.learning.reference import from_module, to_module

RATE = 0.1


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_meta_gradient_is_the_derivative_of_the_query_loss_after_adaptation(
    name: str, steps: int
) -> None:
    learner = make_learner("maml", CASES[name], inner_lr=RATE, inner_steps=steps)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, steps), state, updates)


@pytest.mark.parametrize("name", ["conv4-stride", "conv4-max"])
def test_meta_gradient_holds_with_the_support_statistics_too(name: str) -> None:
    learner = make_learner("maml", CASES[name], transductive=False, inner_lr=RATE, inner_steps=2)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 2), state, updates)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_meta_gradient_equals_that_of_higher(name: str, steps: int) -> None:
    learner = make_learner("maml", CASES[name], inner_lr=RATE, inner_steps=steps)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    for task in range(len(tasks)):
        weights = {key: value[task] for key, value in state.items()}
        expected, loss = higher_meta_gradient(name, weights, tasks[task : task + 1], steps)
        actual = {key: value[task] for key, value in updates.items()}
        assert relative_error(actual, expected) < 1e-9
        assert metrics["loss"][task].item() == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_fomaml_is_the_query_gradient_at_the_adapted_weights(name: str, steps: int) -> None:
    """Line by line after Finn et al. 2017, section 5.2: train with SGD, then differentiate there."""
    learner = make_learner("fomaml", CASES[name], inner_lr=RATE, inner_steps=steps)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    for task in range(len(tasks)):
        weights = {key: value[task] for key, value in state.items()}
        module = to_module(name, weights)
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(CASES[name].spec, module, tasks.support_x[task], tasks.support_y[task]).backward()
            optimizer.step()
        loss = loss_of(CASES[name].spec, module, tasks.query_x[task], tasks.query_y[task])
        gradient = torch.autograd.grad(loss, list(module.parameters()))
        expected = from_module(name, list(gradient), weights)
        assert relative_error({key: value[task] for key, value in updates.items()}, expected) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_make_a_difference(name: str) -> None:
    updates = []
    for algorithm in ("maml", "fomaml"):
        learner = make_learner(algorithm, CASES[name], inner_lr=RATE, inner_steps=3)
        updates.append(learner.task_updates(make_state(learner), make_tasks(CASES[name].spec))[0])
    assert relative_error(*updates) > 1e-3


def test_one_step_on_a_linear_model_follows_the_closed_form() -> None:
    """L = mean (X theta - y)^2, H = 2/S X'X: the meta-gradient is (I - a H) grad L_query(theta')."""
    generator = torch.Generator().manual_seed(5)
    draws = [torch.randn(1, 4, 1, generator=generator, dtype=torch.float64) for _ in range(4)]
    tasks = TaskBatch(*draws)
    case = Case(
        "torch.nn:Linear", {"in_features": 1, "out_features": 1}, TaskSpec("regression", (1,), 1)
    )
    learner = make_learner("maml", case, inner_lr=RATE, inner_steps=1)
    state = make_state(learner, tasks=1)
    theta = torch.stack([state["weight"].flatten(), state["bias"].flatten()])

    def design(x: Tensor) -> Tensor:
        return torch.stack([x[0, :, 0], torch.ones(4, dtype=torch.float64)], 1)

    def gradient(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
        return design(x).T @ (design(x) @ at - y[0]) * 2 / 4

    hessian = design(tasks.support_x).T @ design(tasks.support_x) * 2 / 4
    adapted = theta - RATE * gradient(tasks.support_x, tasks.support_y, theta)
    expected = (torch.eye(2) - RATE * hessian) @ gradient(tasks.query_x, tasks.query_y, adapted)
    updates, _ = learner.task_updates(state, tasks)
    actual = torch.stack([updates["weight"].flatten(), updates["bias"].flatten()])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def higher_meta_gradient(
    name: str, weights: Tensors, tasks: TaskBatch, steps: int
) -> tuple[Tensors, float]:
    """Compute one task's meta-gradient on the reference module with the library `higher`."""
    module, spec = to_module(name, weights), CASES[name].spec
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (patched, inner):
        for _ in range(steps):
            inner.step(loss_of(spec, patched, tasks.support_x[0], tasks.support_y[0]))
        loss = loss_of(spec, patched, tasks.query_x[0], tasks.query_y[0])
        gradient = torch.autograd.grad(loss, list(module.parameters()))
    return from_module(name, list(gradient), weights), loss.item()


def loss_of(spec: TaskSpec, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if spec.objective == "regression":
        return nn.functional.mse_loss(module(x), y)
    return nn.functional.cross_entropy(module(x).flatten(0, -2), y.flatten())
