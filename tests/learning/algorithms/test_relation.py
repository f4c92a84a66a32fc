from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, Tensors
from fedmeta.tasks import TaskBatch, TaskSpec
from tests.learning.cases import CASES, Case, assert_gradient, make_learner, make_state, make_tasks

LINEAR = Case(
    "torch.nn:Linear", {"in_features": 5, "out_features": 4}, TaskSpec("classification", (5,), 3)
)
HIDDEN = {"hidden": [6, 2]}


def module(state: Tensors) -> nn.Module:
    layers = [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 1), nn.Sigmoid()]
    with torch.no_grad():
        for layer, linear in enumerate(layers[::2]):
            assert isinstance(linear, nn.Linear)
            linear.weight.data = state[f"relation{layer}.weight"].T
            linear.bias.data = state[f"relation{layer}.bias"]
    return nn.Sequential(*layers).double()


@torch.no_grad()
def scores(state: Tensors, tasks: TaskBatch, task: int) -> Tensor:
    """One task's relation scores ``[Q, ways]`` (equation 1 of the paper), pair by pair."""
    own = {key: value[task] for key, value in state.items()}
    support, query = (
        half[task] @ own["weight"].T + own["bias"] for half in (tasks.support_x, tasks.query_x)
    )
    relation, labels = module(own), tasks.support_y[task]
    return torch.stack(
        [
            torch.cat(
                [
                    relation(torch.cat([support[labels == way].sum(0), one]))
                    for way in range(int(labels.max()) + 1)
                ]
            )
            for one in query
        ]
    )


@torch.no_grad()
def squared_error(learner: Algorithm, state: Tensors, tasks: TaskBatch) -> float:
    """Equation 2 of the paper per query example, from `adapt` and `predict`; summed over tasks."""
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query).exp()
    total = 0.0
    for task, row, column in torch.cartesian_prod(*map(torch.arange, said.shape)).tolist():
        wanted = float(tasks.query_y[task, row] == column)
        total += (float(said[task, row, column]) - wanted) ** 2
    return total / said.shape[1]


def test_scores_are_those_of_the_paper_pair_by_pair() -> None:
    learner = make_learner("relation", LINEAR, **HIDDEN)
    tasks, state = make_tasks(LINEAR.spec), make_state(learner)
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query)
    for task in range(2):
        expected = scores(state, tasks, task)
        torch.testing.assert_close(said[task].exp(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("transductive", [True, False])
def test_update_is_the_derivative_of_the_squared_error(transductive: bool) -> None:
    learner = make_learner("relation", CASES["conv4-max"], transductive, **HIDDEN)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: squared_error(learner, at, tasks), state, updates)


def test_the_loss_that_is_reported_is_the_cross_entropy_of_the_scores() -> None:
    """The scores divided by their sum are probabilities: the loss is -log(r_y / sum r)."""
    learner = make_learner("relation", LINEAR, **HIDDEN)
    tasks, state = make_tasks(LINEAR.spec), make_state(learner)
    _, metrics = learner.task_updates(state, tasks)
    for task in range(2):
        found = scores(state, tasks, task)
        right = found[torch.arange(len(found)), tasks.query_y[task]]
        assert float(metrics["loss"][task]) == pytest.approx(float(-(right / found.sum(1)).log().mean()))


def test_ways_that_a_task_lacks_have_no_part_in_training() -> None:
    """With a spec of 5 ways and tasks of 3, the update is that of a spec of 3."""
    wide = Case(LINEAR.model, LINEAR.network, TaskSpec("classification", (5,), 5))
    learners = [make_learner("relation", case, **HIDDEN) for case in (LINEAR, wide)]
    tasks, state = make_tasks(LINEAR.spec), make_state(learners[0])
    expected, actual = (one.task_updates(state, tasks)[0] for one in learners)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'relation' needs a classification task with one label"):
        make_learner("relation", CASES[name])


def test_a_model_whose_tensors_have_the_same_names_is_refused() -> None:
    network: dict[str, Any] = {}
    case = Case(f"{__name__}:Namesake", network, LINEAR.spec)
    with pytest.raises(ConfigError, match=r"^algorithm 'relation' has its own 'relation0.bias'"):
        make_learner("relation", case).init(torch.Generator())


class Namesake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relation0 = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relation0(x)
        return result
