"""Oracles: finite differences, and SGD on the body of a plain module."""

import pytest
import torch

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

RATE = 0.1


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_meta_gradient_is_the_derivative_of_the_query_loss_after_adaptation(
    name: str, transductive: bool
) -> None:
    learner = make_learner("boil", CASES[name], transductive, inner_lr=RATE, inner_steps=2)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    assert list(updates) == list(state)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 2), state, updates)
    assert float(metrics["loss"].sum()) == pytest.approx(loss_after(learner, state, tasks, 2))


@pytest.mark.parametrize("name", CASES)
def test_adaptation_trains_all_but_the_head_as_sgd_would(name: str) -> None:
    learner = make_learner("boil", CASES[name], inner_lr=RATE)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 2)
    for task in range(len(tasks)):
        weights = {key: value[task] for key, value in state.items()}
        module = to_module(name, weights)
        optimizer = torch.optim.SGD(list(module.parameters())[:-2], lr=RATE)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(CASES[name].spec, module, tasks.support_x[task], tasks.support_y[task]).backward()
            optimizer.step()
        expected = from_module(name, [p.detach() for p in module.parameters()], weights)
        assert relative_error({key: adapted[key][task] for key in weights}, expected) < 1e-9
