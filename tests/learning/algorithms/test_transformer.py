import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learning import Tensors
from fedmeta.tasks import TaskSpec
from tests.learning.cases import (
    CASES,
    Case,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
)

LABELS = Case(
    "torch.nn:Linear", {"in_features": 5, "out_features": 4}, TaskSpec("classification", (5,), 3)
)
NUMBERS = Case(LABELS.model, LABELS.network, TaskSpec("regression", (5,), 2))
SMALL = {"width": 8, "layers": 2, "heads": 2}


def block(own: Tensors, name: str) -> nn.TransformerEncoderLayer:
    """PyTorch's own block with the weights of one task."""
    layer = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    places = {
        "self_attn.in_proj_": "attention",
        "self_attn.out_proj.": "read",
        "linear1.": "hidden",
        "linear2.": "output",
        "norm1.": "norm0",
        "norm2.": "norm1",
    }
    weights = {
        f"{theirs}{part}": own[f"{name}.{ours}.{part}"].t()
        for theirs, ours in places.items()
        for part in ("weight", "bias")
    }
    layer.load_state_dict(weights)
    return layer


def outputs(own: Tensors, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
    """One query after its prompt, with PyTorch's encoder layers and a mask."""

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ own[f"transformer.{name}.weight"] + own[f"transformer.{name}.bias"]

    prompt = dense("input", support) + dense("target", targets)
    x = torch.cat([prompt, dense("input", query.unsqueeze(0))])
    hidden = torch.zeros(len(x), len(x), dtype=torch.bool)
    hidden[:-1, -1] = True
    for index in range(2):
        x = block(own, f"transformer.{index}")(x.unsqueeze(0), src_mask=hidden)[0]
    norm = own["transformer.norm.weight"], own["transformer.norm.bias"]
    return dense("last", F.layer_norm(x[-1], (8,), *norm))


@pytest.mark.parametrize("case", [LABELS, NUMBERS])
def test_outputs_are_those_of_an_encoder_of_pytorch_query_by_query(case: Case) -> None:
    learner = make_learner("transformer", case, **SMALL)
    tasks, state = make_tasks(case.spec, query=3), make_state(learner)
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query)
    for task in range(2):
        own = {key: value[task] for key, value in state.items()}
        support, query = (
            half[task] @ own["weight"].T + own["bias"] for half in (tasks.support_x, tasks.query_x)
        )
        y = tasks.support_y[task]
        targets = F.one_hot(y, 3).double() if case is LABELS else y
        for row, one in enumerate(query):
            expected = outputs(own, support, targets, one)
            torch.testing.assert_close(said[task, row], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("transductive", [True, False])
def test_update_is_the_derivative_of_the_query_loss(transductive: bool) -> None:
    learner = make_learner("transformer", CASES["conv4-stride"], transductive, **SMALL)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)


def test_the_order_of_the_support_set_does_not_matter() -> None:
    learner = make_learner("transformer", LABELS, **SMALL)
    tasks, state = make_tasks(LABELS.spec), make_state(learner)
    said = []
    for order in (torch.arange(6), torch.tensor([4, 2, 0, 5, 1, 3])):
        support = {key: value[:, order] for key, value in tasks.support.items()}
        said.append(learner.predict(state, learner.adapt(state, support, 0), tasks.query))
    torch.testing.assert_close(said[0], said[1], rtol=1e-10, atol=1e-12)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 8 is not a multiple of heads 3"):
        make_learner("transformer", LABELS, **{**SMALL, "heads": 3})


def test_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'transformer' needs .* one label per example or a regr"):
        make_learner("transformer", CASES["lstm"])
