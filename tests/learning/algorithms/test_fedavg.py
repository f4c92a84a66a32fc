from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmeta.tasks import TaskSpec
from tests.learning.algorithms.test_maml import loss_of
from tests.learning.cases import CASES, Case, make_learner, make_state, make_tasks, relative_error
from tests.learning.reference import from_module, to_module

NEW = TaskSpec("classification", (4,), 10, new_classes=True)
"""Ten classes in training; test tasks have others."""


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
    adapted = learner.adapt(state, tasks.support, 10)
    assert relative_error({key: value[0] for key, value in adapted.items()}, expected) < 1e-10


@pytest.mark.parametrize("hidden", [[], [5]], ids=["linear", "one hidden layer"])
@pytest.mark.parametrize("ways", [2, 3, 12])
def test_for_new_classes_every_way_is_equally_likely_before_the_first_step(
    ways: int, hidden: list[int]
) -> None:
    learner = make_learner("fedavg", Case("mlp", {"hidden": hidden}, NEW))
    tasks, state = make_tasks(replace(NEW, outputs=ways), support=ways), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 0)
    probabilities = learner.predict(state, adapted, tasks.query).softmax(-1)
    assert probabilities.shape[-1] == ways
    assert torch.equal(probabilities, torch.full_like(probabilities, 1 / ways))


def test_the_first_step_of_a_new_head_is_the_gradient_at_zero() -> None:
    """At 0 each of K classes has probability 1/K: w_c becomes rate / N sum_i ([y_i = c] - 1/K) x_i.

    Two ways, x_0 = (1, 0, 0, 0), x_1 = (0, 2, 0, 0), rate 0.4: w_0 = 0.2 (x_0 - x_1) / 2, w_1 = -w_0,
    and each class has as many examples, so that the bias stays 0.
    """
    learner = make_learner("fedavg", Case("mlp", {"hidden": []}, NEW), inner_lr=0.4)
    x = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]]).double()
    adapted = learner.adapt(make_state(learner, 1), {"x": x, "y": torch.tensor([[0, 1]])}, 1)
    expected = [[0.1, -0.1], [-0.2, 0.2], [0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(adapted["head.weight"][0], expected, atol=1e-15)
    np.testing.assert_allclose(adapted["head.bias"][0], [0.0, 0.0], atol=1e-15)


@pytest.mark.parametrize("own_labels", [True, False])
def test_the_trained_head_is_kept_where_labels_mean_the_same_at_test_or_nothing(
    own_labels: bool,
) -> None:
    case = CASES["image-mlp"]
    learner = make_learner("fedavg", replace(case, spec=replace(case.spec, own_labels=own_labels)))
    tasks, state = make_tasks(case.spec), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 0)
    assert torch.equal(adapted["head.weight"], state["head.weight"])
    assert learner.max_ways == case.spec.outputs
    assert make_learner("fedavg", Case("mlp", {}, NEW)).max_ways is None
