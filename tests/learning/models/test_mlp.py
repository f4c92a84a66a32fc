"""The multilayer perceptron without hidden layers: a linear model, or no model at all."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedmeta.learning import build_model, expand_state
from fedmeta.learning.export import Network, to_plain
from fedmeta.tasks import TaskSpec, torch_generator
from tests.learning.cases import Case, make_learner, make_state, make_tasks

LINEAR = {"hidden": []}
Array = NDArray[np.float64]


def softmax_regression_step(weight: Array, bias: Array, x: Array, y: Array, rate: float) -> None:
    """Descend the mean cross-entropy of ``softmax(x W + b)`` in place: dL/dW = x' (p - onehot) / N."""
    logits = x @ weight + bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True) - np.eye(weight.shape[1])[y.astype(int)]
    weight -= rate * x.T @ error / len(x)
    bias -= rate * error.mean(0)


@pytest.mark.parametrize("algorithm", ["maml", "fedavg"])
@pytest.mark.parametrize(
    "spec",
    [
        TaskSpec("classification", (3,), 4),
        TaskSpec("classification", (1, 5, 2), 2),
        TaskSpec("classification", (6, 6), 7),
    ],
    ids=["flat", "image", "seven ways"],
)
def test_a_linear_layer_adapts_by_softmax_regression(spec: TaskSpec, algorithm: str) -> None:
    learner = make_learner(algorithm, Case("mlp", LINEAR, spec), inner_lr=0.3)
    tasks, state = make_tasks(spec, support=8), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 3)
    assert adapted.keys() == {"head.weight", "head.bias"}
    for task in range(len(tasks)):
        weight, bias = (state[f"head.{name}"][task].numpy().copy() for name in ("weight", "bias"))
        x, y = tasks.support_x[task].flatten(1).numpy(), tasks.support_y[task].numpy()
        for _ in range(3):
            softmax_regression_step(weight, bias, x, y, 0.3)
        np.testing.assert_allclose(adapted["head.weight"][task], weight, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(adapted["head.bias"][task], bias, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(3,), (4, 5), (1, 2, 6)])
def test_without_hidden_layers_and_head_the_embedding_is_the_input(shape: tuple[int, ...]) -> None:
    model = build_model("mlp", LINEAR, TaskSpec("classification", shape, 5), outputs=None)
    params = model.init(torch_generator(0))
    x = torch.randn(2, 7, *shape)
    assert params == {}
    assert torch.equal(model.forward(expand_state(params, 2), x), x.flatten(2))
    assert model.outputs == x[0, 0].numel()


def test_a_linear_layer_is_exported_as_one() -> None:
    spec = TaskSpec("classification", (2, 3), 4)
    weights = build_model("mlp", LINEAR, spec, 4).init(torch_generator(1))
    plain = to_plain(Network("mlp", LINEAR, spec, 4), weights)
    assert [tuple(value.shape) for value in plain.tensors.values()] == [(4, 6), (4,)]
    assert plain.code is not None
    assert "nn.Linear(6, 4)" in plain.code
