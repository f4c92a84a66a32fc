"""Changes and similarities of layers, features, and their projection."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.learning.representation import (
    adapted_weights,
    features_of,
    layer_changes,
    layer_similarities,
    linear_cka,
    project,
    separation,
)
from tests.learning.cases import CASES, make_learner, make_state, make_tasks


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Gretton et al. 2005: ``tr(K H L H) / (n - 1)^2`` with the centering matrix ``H``."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ h @ m @ h) / (n - 1) ** 2)


def test_cka_is_normalised_hsic() -> None:
    x, y = drawn(7, 3), drawn(7, 5, seed=1) + 3.0
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-12)


def test_cka_is_that_of_the_features() -> None:
    """Kornblith et al. 2019, equation 6: ``||Y' X||^2 / (||X' X|| ||Y' Y||)`` for centred columns."""
    x, y = drawn(9, 4), drawn(9, 2, seed=1)
    a, b = ((v - v.mean(0)).numpy() for v in (x, y))
    norm = np.linalg.norm
    expected = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-12)


def test_cka_ignores_rotation_scale_and_shift() -> None:
    x = drawn(8, 4)
    rotation, _ = torch.linalg.qr(drawn(4, 4, seed=2))
    assert linear_cka(x, 3.0 * x @ rotation + 5.0) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x.view(8, 2, 2), x) == pytest.approx(1.0, abs=1e-12)
    squeezed = linear_cka(x, x * torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert squeezed is not None
    assert squeezed < 0.99


def test_cka_of_a_dead_layer_is_not_known() -> None:
    x = drawn(6, 3)
    assert linear_cka(x, torch.full((6, 4), 0.1)) is None
    assert linear_cka(x, x * float("nan")) is None


def test_a_layer_s_change_is_that_of_all_its_tensors() -> None:
    before = {"a.weight": torch.tensor([[3.0, 0.0]]), "a.bias": torch.tensor([4.0])}
    after = {"a.weight": torch.tensor([[3.0, 3.0]]), "a.bias": torch.tensor([8.0])}
    still, new = {"b": torch.ones(2)}, {"c.w": torch.zeros(2)}
    found = layer_changes(before | still | new, after | still | {"c.w": torch.ones(2)})
    # The change (0, 3, 4) has length 5, as have the weights (3, 0, 4).
    assert found == {"a": 1.0, "b": 0.0, "c": None}
    assert layer_changes(new, new) == {"c": 0.0}


@pytest.mark.parametrize("name", CASES)
def test_the_last_layer_is_the_output(name: str) -> None:
    learner = make_learner("maml", CASES[name])
    state, tasks = make_state(learner), make_tasks(CASES[name].spec)
    with torch.no_grad():
        seen = learner.model.activations(state, tasks.support["x"])
        made = learner.model.forward(state, tasks.support["x"])
    assert len(seen) >= 2
    torch.testing.assert_close([*seen.values()][-1], made, rtol=0, atol=0)
    assert all(value.shape[:2] == made.shape[:2] for value in seen.values())


def test_layers_that_a_method_leaves_as_they_are_stay_alike() -> None:
    """ANIL adapts the head alone (Raghu et al. 2020): before it nothing moves, and all is as it was."""
    learner = make_learner("anil", CASES["conv4-stride"])
    state, tasks = make_state(learner, 1), make_tasks(CASES["conv4-stride"].spec, 1)
    before, after = (
        adapted_weights(learner, learner.adapt(state, tasks.support, steps)) for steps in (0, 20)
    )
    assert before is not None
    assert after is not None
    changes = layer_changes(before, after)
    alike = layer_similarities(learner, before, after, tasks.support["x"])
    assert {name for name, value in changes.items() if value} == {"head"}
    assert [*alike] == ["conv0", "conv1", "conv2", "conv3", "head"]
    values = [value for value in alike.values() if value is not None]
    assert values[:4] == pytest.approx([1.0] * 4, abs=1e-12)
    assert values[4] < 1 - 1e-6


def test_methods_without_adapted_weights_have_none() -> None:
    learner = make_learner("protonet", CASES["image-mlp"])
    state, tasks = make_state(learner, 1), make_tasks(CASES["image-mlp"].spec, 1)
    assert adapted_weights(learner, learner.adapt(state, tasks.support, 1)) is None


@pytest.mark.parametrize("name", ["image-mlp", "conv4-max", "user-module"])
def test_features_are_what_the_head_gets(name: str) -> None:
    learner = make_learner("maml", CASES[name])
    state, tasks = make_state(learner), make_tasks(CASES[name].spec)
    features = features_of(learner, state, tasks.query)
    assert features is not None
    weight, bias = state["head.weight"], state["head.bias"]
    made = features @ (weight.mT if name == "user-module" else weight) + bias.unsqueeze(1)
    torch.testing.assert_close(made, learner.predict(state, state, tasks.query))


def test_the_projection_is_scikit_learn_s_pca() -> None:
    from sklearn.decomposition import PCA

    x = drawn(20, 6) * torch.tensor([5.0, 3.0, 1.0, 1.0, 1.0, 0.5]) + 2.0
    pca: Any = PCA(2).fit(x.numpy())
    expected = torch.from_numpy(pca.transform(x.numpy()))
    points, shares = project(x)
    assert shares == pytest.approx(tuple(pca.explained_variance_ratio_), rel=1e-9)
    torch.testing.assert_close(points.abs(), expected.abs())
    # A reflected cloud has the reflected picture: the signs do not depend on the solver.
    torch.testing.assert_close(project(-x).points, -points)


def test_few_features_and_few_examples_are_projected_too() -> None:
    assert project(torch.tensor([[1.0], [3.0]])).points.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert project(torch.ones(3, 4)).points.abs().max() == 0
    assert project(torch.ones(1, 4)).shares == (0.0, 0.0)


def test_separation_is_the_share_of_variance_between_classes() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert separation(apart, labels) == 1.0
    assert separation(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), labels) == 0.0
    # Means 2 and -2, and each example 1 from its own: 4 * 4 of 4 * 4 + 4 * 1.
    assert separation(torch.tensor([[3.0], [1.0], [-1.0], [-3.0]]), labels) == pytest.approx(0.8)
    assert separation(torch.ones(4, 2), labels) is None
