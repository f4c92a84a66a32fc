import pytest
import torch
from sklearn.svm import LinearSVC

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithms.metaoptnet import SCALE
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

LINEAR = Case(
    "torch.nn:Linear", {"in_features": 5, "out_features": 4}, TaskSpec("classification", (5,), 3)
)


@pytest.mark.parametrize("penalty", [0.1, 2.0])
def test_logits_are_those_of_scikit_learn_on_the_features(penalty: float) -> None:
    learner = make_learner("metaoptnet", LINEAR, penalty=penalty)
    tasks, state = make_tasks(LINEAR.spec, support=12), make_state(learner)
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query)
    for task in range(2):
        own = {key: value[task] for key, value in state.items()}
        support, query = (
            (half[task] @ own["weight"].T + own["bias"]).numpy()
            for half in (tasks.support_x, tasks.query_x)
        )
        machine = LinearSVC(
            multi_class="crammer_singer", C=penalty, fit_intercept=False, tol=1e-8, max_iter=50_000
        )
        machine.fit(support, tasks.support_y[task].numpy())
        scores = torch.from_numpy(machine.decision_function(query))
        torch.testing.assert_close(said[task], own[SCALE] * scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("support", [6, 12])
def test_update_is_the_derivative_of_the_query_loss(support: int, transductive: bool) -> None:
    learner = make_learner("metaoptnet", CASES["conv4-stride"], transductive, penalty=0.5)
    tasks, state = make_tasks(learner.spec, support=support), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)


def test_in_float32_the_dual_is_as_precise_as_in_float64() -> None:
    learner = make_learner("metaoptnet", LINEAR)
    tasks, state = make_tasks(LINEAR.spec, support=12), make_state(learner)
    wide = learner.adapt(state, tasks.support, 0)["head"]
    narrow = {key: value.float() for key, value in state.items()}
    found = learner.adapt(narrow, tasks.to(torch.float32).support, 0)["head"]
    torch.testing.assert_close(found.double(), wide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'metaoptnet' needs a classification task with one label"):
        make_learner("metaoptnet", CASES[name])
