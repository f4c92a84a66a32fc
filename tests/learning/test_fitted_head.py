import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC

from fedmeta.errors import ConfigError, DataError
from fedmeta.learning import Algorithm, AlgorithmSetup, Tensors, build_algorithm, expand_state
from fedmeta.tasks import MASK, TaskSpec, torch_generator
from tests.learning.cases import CASES, Case, make_tasks

FOREST = "sklearn.ensemble.RandomForestClassifier(n_estimators=5)"
LOGISTIC = "sklearn.linear_model.LogisticRegression()"
SEED = 3


def build(algorithm: str, case: Case, head: str, compiled: bool = False) -> tuple[Algorithm, Tensors]:
    setup = AlgorithmSetup(algorithm, {}, case.model, case.network, compile=compiled, head=head)
    made = build_algorithm(setup, case.spec, SEED)
    state = expand_state(made.init(torch_generator(0, "init")), 2)
    return made, {key: value.double() for key, value in state.items()}


def features(case: Case, state: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Features of the tests' networks: without the head, layer by layer."""
    if case.model == "mlp":
        hidden = torch.baddbmm(state["hidden0.bias"].unsqueeze(1), x.flatten(2), state["hidden0.weight"])
        return torch.tanh(hidden)
    convolution = state["convolution.weight"]
    rows = []
    for task, images in enumerate(x):
        made = torch.nn.functional.conv2d(
            images, convolution[task], state["convolution.bias"][task], stride=3
        )
        norm = state["norm.weight"][task], state["norm.bias"][task]
        rows.append(torch.tanh(torch.nn.functional.group_norm(made, 2, *norm)).flatten(1))
    return torch.stack(rows)


COMPILED = pytest.param(
    True, marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
)


@pytest.mark.parametrize("compiled", [False, COMPILED])
@pytest.mark.parametrize("name", ["image-mlp", "user-module"])
@pytest.mark.parametrize("algorithm", ["maml", "meta_sgd", "protonet"])
def test_an_estimator_gets_what_the_last_layer_would_get(
    algorithm: str, name: str, compiled: bool
) -> None:
    case = CASES[name]
    if algorithm == "protonet" and name == "user-module":
        pytest.skip("a module that does not know of embeddings embeds with its head")
    made, state = build(algorithm, case, LOGISTIC, compiled)
    tasks = make_tasks(case.spec, support=9)
    said = made.predict(state, made.adapt(state, tasks.support, 0), tasks.query).softmax(-1)
    support, query = (features(case, state, half) for half in (tasks.support_x, tasks.query_x))
    for task in range(2):
        fitted = LogisticRegression().fit(support[task].numpy(), tasks.support_y[task].numpy())
        np.testing.assert_allclose(said[task], fitted.predict_proba(query[task].numpy()), rtol=1e-6)


def test_random_state_is_the_seed() -> None:
    case = CASES["image-mlp"]
    made, state = build("maml", case, FOREST)
    tasks = make_tasks(case.spec, support=12)
    said = made.predict(state, made.adapt(state, tasks.support, 0), tasks.query).softmax(-1)
    support, query = (features(case, state, half) for half in (tasks.support_x, tasks.query_x))
    fitted = RandomForestClassifier(n_estimators=5, random_state=SEED)
    fitted.fit(support[0].numpy(), tasks.support_y[0].numpy())
    np.testing.assert_allclose(said[0], fitted.predict_proba(query[0].numpy()), atol=1e-4)


@pytest.mark.parametrize("ways", [2, 3])
def test_an_estimator_without_probabilities_answers_with_its_scores(ways: int) -> None:
    case = replace(CASES["image-mlp"], spec=TaskSpec("classification", (1, 12, 12), ways))
    made, state = build("maml", case, "sklearn.svm.SVC()")
    tasks = make_tasks(case.spec, support=12)
    said = made.predict(state, made.adapt(state, tasks.support, 0), tasks.query).argmax(-1)
    support, query = (features(case, state, half) for half in (tasks.support_x, tasks.query_x))
    for task in range(2):
        fitted = SVC().fit(support[task].numpy(), tasks.support_y[task].numpy())
        np.testing.assert_array_equal(said[task], fitted.predict(query[task].numpy()))


def test_a_regression_takes_a_regressor() -> None:
    case = Case("mlp", {"hidden": [7], "activation": "tanh"}, TaskSpec("regression", (1,), 1))
    made, state = build("maml", case, "sklearn.linear_model.Ridge(alpha=0.1)")
    tasks = make_tasks(case.spec)
    said = made.predict(state, made.adapt(state, tasks.support, 0), tasks.query)
    support, query = (features(case, state, half) for half in (tasks.support_x, tasks.query_x))
    fitted = Ridge(alpha=0.1).fit(support[0].numpy(), tasks.support_y[0, :, 0].numpy())
    np.testing.assert_allclose(said[0, :, 0], fitted.predict(query[0].numpy()), rtol=1e-8)


def test_padding_is_left_out_and_training_is_the_algorithms_own() -> None:
    case = CASES["image-mlp"]
    made, state = build("maml", case, LOGISTIC)
    plain, _ = build("maml", case, "")
    tasks = make_tasks(case.spec, support=9)
    mask = torch.tensor([[True] * 6 + [False] * 3] * 2)
    short = {key: value[:, :6] for key, value in tasks.support.items()}
    said = [
        made.predict(state, made.adapt(state, support, 0), tasks.query)
        for support in (short, {**tasks.support, MASK: mask})
    ]
    torch.testing.assert_close(said[0], said[1])
    assert all(
        torch.equal(value, made.task_updates(state, tasks)[0][key])
        for key, value in plain.task_updates(state, tasks)[0].items()
    )


@pytest.mark.parametrize(
    ("name", "head", "why"),
    [
        ("sinusoid-mlp", FOREST, "is not a regressor"),
        ("image-mlp", "sklearn.linear_model.Ridge()", "is not a classifier"),
        ("image-mlp", "sklearn.preprocessing.StandardScaler()", "is not a classifier"),
        ("lstm", FOREST, "one label per example"),
    ],
)
def test_a_head_that_does_not_fit_the_tasks_is_refused(name: str, head: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build("maml", CASES[name], head)


def test_a_head_that_cannot_be_fitted_says_why() -> None:
    case = CASES["image-mlp"]
    made, state = build("maml", case, "sklearn.neighbors.KNeighborsClassifier(50)")
    tasks = make_tasks(case.spec)
    with pytest.raises(DataError, match=r"KNeighborsClassifier\(50\)' cannot be fitted .*n_neighbors"):
        made.predict(state, made.adapt(state, tasks.support, 0), tasks.query)


def test_tasks_without_a_support_set_are_refused() -> None:
    spec = TaskSpec("sequence", (3,), 2, instances=2)
    with pytest.raises(ConfigError, match="a head is fitted to a support set"):
        build("mann", Case("mlp", {"hidden": []}, spec), LOGISTIC)


def test_what_the_algorithm_declares_holds_with_a_head() -> None:
    case = CASES["image-mlp"]
    made, state = build("meta_sgd", case, LOGISTIC)
    assert made.second_order
    assert made.learned_rates({key: value[0] for key, value in state.items()})
    assert build("fomaml", case, LOGISTIC)[0].second_order is False
