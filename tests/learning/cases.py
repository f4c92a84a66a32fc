"""Small learners in float64, their tasks, and finite differences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedmeta.learning import (
    ALGORITHMS,
    Algorithm,
    AlgorithmSetup,
    Tensors,
    build_algorithm,
    expand_state,
)
from fedmeta.learning.algorithms import FedAvg
from fedmeta.learning.embedding import EmbeddingAlgorithm
from fedmeta.learning.inner import WeightAdaptation
from fedmeta.tasks import TaskBatch, TaskSpec, torch_generator
from fedmeta.tasks.data.molecule_graphs import MOLECULE

WAYS = 3
DESCENT = [
    name
    for name in ALGORITHMS
    if issubclass(kind := ALGORITHMS.get(name), WeightAdaptation) and FedAvg not in kind.__mro__[1:]
]
"""Algorithms that adapt by gradient descent; of FedAvg and its variants the first alone."""
FEWER: dict[str, dict[str, Any]] = {
    "coordinatewise_lstm": {"inner_steps": 2, "hidden": 3},
    "imaml": {"inner_steps": 2, "cg_steps": 2},
    "maml_pp": {"inner_steps": 2},
}
"""Options of those that take many steps by default, for quick tests."""
EMBEDDING = [name for name in ALGORITHMS if issubclass(ALGORITHMS.get(name), EmbeddingAlgorithm)]
"""Algorithms that predict from embedded examples, without an inner loop."""
KERNELS = "eager"
"""What computes gradients of `make_learner`'s algorithms; a fixture sets it for whole folders."""


class UserNet(nn.Module):
    """What a user might bring: a convolution, group norm, a smooth activation, a linear layer."""

    def __init__(self, channels: int, outputs: int = WAYS) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, channels, 3, stride=3)
        self.norm = nn.GroupNorm(2, channels)
        self.head = nn.Linear(channels * 16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.convolution(x))).flatten(1))


@dataclass(frozen=True)
class Case:
    """A model, its options and the shape of its tasks."""

    model: str
    network: Mapping[str, Any] = field(default_factory=dict)
    spec: TaskSpec = field(default_factory=lambda: TaskSpec("classification", (1, 12, 12), WAYS))


CASES = {
    "sinusoid-mlp": Case("mlp", {"hidden": [7, 6]}, TaskSpec("regression", (1,), 1)),
    "image-mlp": Case("mlp", {"hidden": [7], "activation": "tanh"}),
    "conv4-stride": Case("conv4", {"width": 4}),
    "conv4-max": Case("conv4", {"width": 4, "pooling": "max"}),
    "resnet12": Case("resnet12", {"widths": [2, 3]}),
    "lstm": Case(
        "lstm",
        {"embedding": 3, "hidden": 5, "layers": 2},
        TaskSpec("classification", (6,), 7, vocabulary=7),
    ),
    "lstm-features": Case("lstm", {"hidden": 5, "layers": 2}, TaskSpec("classification", (6, 3), WAYS)),
    "tdnn": Case("tdnn", {"hidden": [5, 4], "window": 2}, TaskSpec("classification", (6, 3), WAYS)),
    "mpn": Case(
        "mpn",
        {"width": 5, "layers": 2},
        TaskSpec("classification", (7, MOLECULE.columns), WAYS, graph=MOLECULE),
    ),
    "user-module": Case("tests.learning.cases:UserNet", {"channels": 4}),
}


def make_tasks(
    spec: TaskSpec, tasks: int = 2, support: int = 6, query: int = 6, seed: int = 0
) -> TaskBatch:
    """Draw tasks of the shape `spec`, without structure, in float64; every way is in every set."""
    generator = torch_generator(seed, "tasks")

    def inputs(rows: int) -> Tensor:
        shape = (tasks, rows, *spec.input_shape)
        if spec.graph:
            return spec.graph.made_up(shape, generator).double()
        if spec.vocabulary:
            return torch.randint(spec.vocabulary, shape, generator=generator)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def targets(rows: int) -> Tensor:
        if spec.objective == "regression":
            return torch.randn(tasks, rows, spec.outputs, generator=generator, dtype=torch.float64)
        if spec.vocabulary:
            return torch.randint(spec.outputs, (tasks, rows, *spec.input_shape), generator=generator)
        return (torch.arange(rows) % spec.outputs).repeat(tasks, 1)

    return TaskBatch(inputs(support), targets(support), inputs(query), targets(query))


def make_learner(algorithm: str, case: Case, transductive: bool = True, **learner: Any) -> Algorithm:
    """Build `algorithm` on the model of `case`."""
    setup = AlgorithmSetup(algorithm, learner, case.model, case.network, transductive, kernels=KERNELS)
    return build_algorithm(setup, case.spec)


def takes(algorithm: str, case: Case) -> bool:
    """Return whether an algorithm is made for tasks like those of `case`."""
    kind, spec = ALGORITHMS.get(algorithm), case.spec
    if not issubclass(kind, EmbeddingAlgorithm):
        return algorithm != "pretrained" or not spec.own_labels
    return not spec.vocabulary and (spec.objective == "classification" or kind.regression)


def make_state(learner: Algorithm, tasks: int = 2, seed: int = 1) -> Tensors:
    """Draw a float64 state that differs from task to task and has no exact zeros."""
    generator = torch_generator(seed, "state")
    state = expand_state(learner.init(generator), tasks)
    return {
        key: value.double() + 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for key, value in state.items()
    }


def loss_after(learner: Algorithm, state: Tensors, tasks: TaskBatch, steps: int) -> float:
    """Return the query loss after adaptation, summed over tasks, without `task_updates`."""
    adapted = learner.adapt(state, tasks.support, steps)
    prediction = learner.predict(state, adapted, tasks.query)
    return float(learner.objective.loss(prediction, tasks.query).sum())


def assert_gradient(function: Callable[[Tensors], float], at: Tensors, gradient: Tensors) -> None:
    """Compare with central differences: random directions, and each tensor's steepest coordinate."""
    generator = torch_generator(2, "directions")
    directions = [_unit_direction(at, generator) for _ in range(3)]
    for key, value in gradient.items():
        direction = {name: torch.zeros_like(other) for name, other in gradient.items()}
        direction[key].view(-1)[value.abs().argmax()] = 1.0
        directions.append(direction)
    scale = max(float(value.abs().max()) for value in gradient.values())
    for direction in directions:
        expected = _central_difference(function, at, direction)
        actual = sum(float((gradient[key] * direction[key]).sum()) for key in at)
        # A direction across which the function is nearly flat is held to the scale of the gradient.
        assert abs(actual - expected) <= 1e-6 * max(abs(expected), scale)


def _unit_direction(at: Tensors, generator: torch.Generator) -> Tensors:
    draws = {
        key: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for key, value in at.items()
    }
    norm = sum(float(value.square().sum()) for value in draws.values()) ** 0.5
    return {key: value / norm for key, value in draws.items()}


def _central_difference(function: Callable[[Tensors], float], at: Tensors, direction: Tensors) -> float:
    width = 1e-6  # small enough that no ReLU or maximum changes sides between the two points

    def shifted(by: float) -> float:
        return function({key: value + by * direction[key] for key, value in at.items()})

    return (shifted(width) - shifted(-width)) / (2 * width)


def relative_error(actual: Tensors, expected: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference over the norm of `expected`, over all tensors together."""
    assert actual.keys() == expected.keys()
    difference = sum(float((actual[key] - expected[key]).square().sum()) for key in actual)
    total = sum(float(value.square().sum()) for value in expected.values())
    return (difference / total) ** 0.5
