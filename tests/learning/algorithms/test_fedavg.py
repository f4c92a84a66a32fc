import pytest
import torch

from tests.learning.algorithms.test_maml import loss_of
from tests.learning.cases import CASES, make_learner, make_state, make_tasks, relative_error
from tests.learning.reference import from_module, to_module


@pytest.mark.parametrize("name", CASES)
def test_update_is_the_plain_gradient_on_support_and_query(name: str) -> None:
    learner = make_learner("fedavg", CASES[name])
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    for task in range(len(tasks)):
        weights = {key: value[task] for key, value in state.items()}
        module = to_module(name, weights)
        x = torch.cat([tasks.support_x[task], tasks.query_x[task]])
        y = torch.cat([tasks.support_y[task], tasks.query_y[task]])
        loss = loss_of(CASES[name].spec, module, x, y)
        gradient = torch.autograd.grad(loss, list(module.parameters()))
        expected = from_module(name, list(gradient), weights)
        assert relative_error({key: value[task] for key, value in updates.items()}, expected) < 1e-10
        assert metrics["loss"][task].item() == pytest.approx(loss.item(), rel=1e-12)


def test_fine_tuning_is_gradient_descent_on_the_support_set() -> None:
    name = "image-mlp"
    learner = make_learner("fedavg", CASES[name], inner_lr=0.2)
    tasks, state = make_tasks(CASES[name].spec, tasks=1), make_state(learner, tasks=1)
    weights = {key: value[0] for key, value in state.items()}
    module = to_module(name, weights)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(CASES[name].spec, module, tasks.support_x[0], tasks.support_y[0]).backward()
        optimizer.step()
    expected = from_module(name, [value.detach() for value in module.parameters()], weights)
    adapted = learner.adapt(state, tasks.support_x, tasks.support_y, 10)
    assert relative_error({key: value[0] for key, value in adapted.items()}, expected) < 1e-10
