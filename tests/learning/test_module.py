from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learning import build_model
from fedmeta.learning.setup import resolve_network
from fedmeta.tasks import TaskSpec
from tests.learning.cases import Case, make_learner, make_state, make_tasks

SPEC = TaskSpec("classification", (6,), 3)
HERE = "tests.learning.test_module"


class NormNet(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


class BufferNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("scale", torch.full((6,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.scale)


@pytest.mark.parametrize(
    ("path", "network", "message"),
    [
        ("torch.nn:Linear", {"in_features": 6, "out_features": 4}, "has 4 outputs but the task needs 3"),
        (
            "torch.nn:Linear",
            {"in_features": 5, "out_features": 3},
            r"cannot read inputs of shape \[2, 6\]",
        ),
        ("torch.nn:Linear", {"in_features": 6, "width": 3}, "unexpected keyword argument 'width'"),
        ("torch.nn:Flatten", {}, "no parameters"),
        (f"{HERE}:NormNet", {"dropout": 0.5}, "random numbers in 'drop'"),
        ("collections:OrderedDict", {}, "neither a torch.nn.Module class nor a fedmeta model"),
        ("nowhere.at.all:Net", {}, "cannot be imported"),
    ],
)
def test_a_module_that_cannot_serve_is_refused_in_one_line(
    path: str, network: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        build_model(path, network, SPEC, SPEC.outputs)
    assert "\n" not in str(refusal.value)


def test_batch_norm_of_a_module_knows_the_support_rows() -> None:
    case = Case(f"{HERE}:NormNet", {}, SPEC)
    learner = make_learner("maml", case)
    tasks, state = make_tasks(SPEC, support=5), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 0)
    actual = learner.predict(state, adapted, tasks.query, transductive=False)
    for task in range(2):
        weights = {key: value[task] for key, value in state.items()}
        module = NormNet().double()
        module.load_state_dict(weights)
        hidden, seen = module.first(tasks.query_x[task]), module.first(tasks.support_x[task])
        normed = (hidden - seen.mean(0)) / (seen.var(0, correction=0) + 1e-5).sqrt()
        expected = module.last(torch.relu(normed * module.norm.weight + module.norm.bias))
        torch.testing.assert_close(actual[task], expected)


def test_fixed_buffers_are_kept_and_follow_the_dtype() -> None:
    learner = make_learner("maml", Case(f"{HERE}:BufferNet", {}, SPEC))
    tasks, state = make_tasks(SPEC), make_state(learner)
    assert state.keys() == {"layer.weight", "layer.bias"}
    expected = torch.baddbmm(
        state["layer.bias"].unsqueeze(1), 2 * tasks.query_x, state["layer.weight"].transpose(1, 2)
    )
    torch.testing.assert_close(learner.model.forward(state, tasks.query_x), expected)


def test_a_module_has_no_defaults_to_fill_in() -> None:
    assert resolve_network("torch.nn:Linear", {"in_features": 6}) == {"in_features": 6}
