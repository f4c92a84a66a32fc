import math

import pytest
import torch
from sklearn.linear_model import Ridge

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithms.r2d2 import LOG_RIDGE, SCALE, SHIFT
from fedmeta.tasks import TaskSpec, torch_generator
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


@pytest.mark.parametrize("examples", [3, 12])
def test_logits_are_those_of_scikit_learn_on_the_features(examples: int) -> None:
    """With fewer support examples than features, and with more."""
    learner = make_learner("r2d2", LINEAR)
    tasks, state = make_tasks(LINEAR.spec, support=examples), make_state(learner)
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query)
    for task in range(2):
        own = {key: value[task] for key, value in state.items()}
        support, query = (
            torch.cat([half[task] @ own["weight"].T + own["bias"], torch.ones(len(half[task]), 1)], -1)
            for half in (tasks.support_x, tasks.query_x)
        )
        ridge = Ridge(alpha=math.exp(float(own[LOG_RIDGE])), fit_intercept=False)
        ridge.fit(support.numpy(), torch.eye(3)[tasks.support_y[task]].double().numpy())
        scores = torch.from_numpy(ridge.predict(query.numpy()))
        expected = own[SCALE] * scores + own[SHIFT]
        torch.testing.assert_close(said[task], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("transductive", [True, False])
def test_update_is_the_derivative_of_the_query_loss(transductive: bool) -> None:
    """By the embedding, by lambda and by the scale; the softmax does not see a common shift."""
    learner = make_learner("r2d2", CASES["conv4-max"], transductive, ridge=0.5, logit_scale=2.0)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)
    assert updates[LOG_RIDGE].abs().min() > 1e-4


def test_the_options_are_where_the_learned_numbers_start() -> None:
    learner = make_learner("r2d2", LINEAR, ridge=2.0, logit_scale=3.0)
    state = learner.init(torch_generator(0, "init"))
    assert float(state[LOG_RIDGE].exp()) == pytest.approx(2.0)
    assert (float(state[SCALE]), float(state[SHIFT])) == (3.0, 0.0)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'r2d2' needs a classification task with one label"):
        make_learner("r2d2", CASES[name])
