"""Oracles: finite differences, and MAML's steps by `torch.optim.SGD` on the head of a plain module."""

import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.tasks import TaskSpec
from tests.learning.algorithms.test_maml import loss_of
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


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_meta_gradient_is_the_derivative_of_the_query_loss_after_adaptation(
    name: str, transductive: bool
) -> None:
    learner = make_learner("anil", CASES[name], transductive, inner_lr=RATE, inner_steps=3)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    assert list(updates) == list(state)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 3), state, updates)
    assert float(metrics["loss"].sum()) == pytest.approx(loss_after(learner, state, tasks, 3))


@pytest.mark.parametrize("name", CASES)
def test_adaptation_trains_the_head_as_sgd_would(name: str) -> None:
    learner = make_learner("anil", CASES[name], inner_lr=RATE)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    adapted = dict(learner.trajectory(state, tasks.support, [0, 2, 4]))
    for task in range(len(tasks)):
        weights = {key: value[task] for key, value in state.items()}
        module = to_module(name, weights)
        head = list(module.parameters())[-2:]
        optimizer = torch.optim.SGD(head, lr=RATE)
        for step in range(5):
            if step in adapted:
                held = from_module(name, [p.detach() for p in module.parameters()], weights)
                found = {key: adapted[step][key][task] for key in weights}
                assert relative_error(found, held) < 1e-12
            optimizer.zero_grad()
            loss_of(CASES[name].spec, module, tasks.support_x[task], tasks.support_y[task]).backward()
            optimizer.step()


@pytest.mark.parametrize("name", ["sinusoid-mlp", "conv4-max", "lstm"])
def test_features_computed_once_give_what_computing_them_in_each_step_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = make_learner("anil", CASES[name], inner_lr=RATE, inner_steps=2)
    monkeypatch.setattr(type(once.model), "body", lambda self: None)
    each = make_learner("anil", CASES[name], inner_lr=RATE, inner_steps=2)
    tasks, state = make_tasks(CASES[name].spec), make_state(once)
    expected, seen = each.task_updates(state, tasks)
    updates, metrics = once.task_updates(state, tasks)
    assert relative_error(updates, expected) < 1e-12
    assert relative_error(metrics, seen) < 1e-12
    assert relative_error(*(one.adapt(state, tasks.support, 3) for one in (once, each))) < 1e-12


@pytest.mark.parametrize("algorithm", ["anil", "boil"])
def test_a_model_without_a_head_is_refused(algorithm: str) -> None:
    case = Case("torch.nn:Flatten", {}, TaskSpec("classification", (3,), 3))
    with pytest.raises(ConfigError, match="has no parameters"):
        make_learner(algorithm, case)
    headless = Case("tests.learning.algorithms.test_anil:Scaled", {}, TaskSpec("regression", (2,), 2))
    with pytest.raises(ConfigError, match=f"algorithm '{algorithm}' .* the head"):
        make_learner(algorithm, headless)


class Scaled(torch.nn.Module):
    """Has outputs whose number is fixed by the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale
