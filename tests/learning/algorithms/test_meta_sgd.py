import pytest
import torch

from tests.learning.cases import (
    CASES,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
    relative_error,
)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_gradient_for_weights_and_rates_is_the_derivative_of_the_query_loss(
    name: str, steps: int
) -> None:
    learner = make_learner("meta_sgd", CASES[name], inner_lr=0.1, inner_steps=steps)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert {key for key in updates if key.startswith("lr.")} == {
        f"lr.{key}" for key in learner.weights(state)
    }
    assert all(bool(value.any()) for value in updates.values())
    assert_gradient(lambda at: loss_after(learner, at, tasks, steps), state, updates)


def test_with_equal_rates_the_weights_follow_maml() -> None:
    case = CASES["conv4-max"]
    maml = make_learner("maml", case, inner_lr=0.1, inner_steps=2)
    meta_sgd = make_learner("meta_sgd", case, inner_lr=0.1, inner_steps=2)
    tasks, state = make_tasks(case.spec), make_state(maml)
    rates = {f"lr.{key}": torch.full_like(value, 0.1) for key, value in state.items()}
    expected, _ = maml.task_updates(state, tasks)
    actual, _ = meta_sgd.task_updates(state | rates, tasks)
    assert relative_error({key: actual[key] for key in expected}, expected) < 1e-12


def test_rates_start_at_the_inner_learning_rate_and_belong_to_the_state() -> None:
    learner = make_learner("meta_sgd", CASES["sinusoid-mlp"], inner_lr=0.25)
    state = learner.init(torch.Generator().manual_seed(0))
    assert state["lr.head.weight"].shape == state["head.weight"].shape
    assert all(bool((value == 0.25).all()) for key, value in state.items() if key.startswith("lr."))
