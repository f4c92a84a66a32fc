import pytest
import torch
import torch.nn.functional as F

from fedmeta.learning import Algorithm, Tensors
from tests.learning.cases import (
    CASES,
    DESCENT,
    EMBEDDING,
    FEWER,
    make_learner,
    make_state,
    make_tasks,
    relative_error,
)
from tests.learning.reference import to_module

ALGORITHMS = [*DESCENT, *EMBEDDING]
OPTIONS = FEWER | {"reptile": {"inner_steps": 3, "inner_batch": 4, "inner_optimizer": "adam"}}


def learner_of(algorithm: str, transductive: bool = True) -> Algorithm:
    return make_learner(algorithm, CASES["conv4-max"], transductive, **OPTIONS.get(algorithm, {}))


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_task_is_computed_the_same_alone_and_among_others(algorithm: str, transductive: bool) -> None:
    learner = learner_of(algorithm, transductive)
    tasks, state = make_tasks(learner.spec, tasks=3), make_state(learner, tasks=3)
    updates, metrics = learner.task_updates(state, tasks)
    for task in range(3):
        own: Tensors = {key: value[task : task + 1] for key, value in state.items()}
        alone, measured = learner.task_updates(own, tasks[task : task + 1])
        assert (
            relative_error(alone, {key: value[task : task + 1] for key, value in updates.items()})
            < 1e-10
        )
        for key, value in measured.items():
            torch.testing.assert_close(value[0], metrics[key][task])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_updates_have_the_keys_and_shapes_of_the_state_and_metrics_one_value_a_task(
    algorithm: str,
) -> None:
    learner = learner_of(algorithm)
    tasks, state = make_tasks(learner.spec, tasks=3), make_state(learner, tasks=3)
    updates, metrics = learner.task_updates(state, tasks)
    assert {key: value.shape for key, value in updates.items()} == {k: v.shape for k, v in state.items()}
    assert metrics.keys() == {"loss", "loss_before", "accuracy", "accuracy_before"}
    assert all(value.shape == (3,) for value in metrics.values())
    assert not any(value.requires_grad for value in (updates | metrics).values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_that_is_passed_in_is_changed(algorithm: str) -> None:
    learner = learner_of(algorithm)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    copies = {key: value.clone() for key, value in state.items()}
    learner.task_updates(state, tasks)
    learner.adapt(state, tasks.support, 3)
    assert all(torch.equal(state[key], copies[key]) and not state[key].requires_grad for key in state)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_trajectory_passes_where_adapt_ends(algorithm: str) -> None:
    learner = learner_of(algorithm)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    steps = [0, 1, 3, 10]
    passed = list(learner.trajectory(state, tasks.support, steps))
    assert [step for step, _ in passed] == steps
    for step, adapted in passed:
        ended = learner.adapt(state, tasks.support, step)
        assert all(torch.equal(adapted[key], ended[key]) for key in ended)


def test_prediction_without_transduction_uses_the_statistics_of_the_support_set() -> None:
    """Checked on the plain module: batch norm with fixed statistics, taken from the support set."""
    learner = make_learner("maml", CASES["conv4-stride"])
    tasks, state = make_tasks(learner.spec), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 0)
    actual = learner.predict(state, adapted, tasks.query, transductive=False)
    for task in range(2):
        module = to_module("conv4-stride", {key: value[task] for key, value in state.items()})
        seen, x = tasks.support_x[task], tasks.query_x[task]
        for convolution, norm in zip(module.convolutions, module.norms, strict=True):
            seen, x = convolution(seen), convolution(x)
            mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3), correction=0)
            statistics = {"running_mean": mean.detach(), "running_var": variance.detach()}
            seen, x = (
                F.batch_norm(v, weight=norm.weight, bias=norm.bias, **statistics) for v in (seen, x)
            )
            seen, x = torch.relu(seen), torch.relu(x)
        torch.testing.assert_close(actual[task], module.head(x.mean((2, 3))))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_transduction_a_prediction_ignores_its_companions(algorithm: str) -> None:
    learner = learner_of(algorithm, transductive=False)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 2)
    together = learner.predict(state, adapted, tasks.query)
    torch.testing.assert_close(
        learner.predict(state, adapted, {"x": tasks.query_x[:, :1]}), together[:, :1]
    )
    apart = learner.predict(state, adapted, {"x": tasks.query_x[:, :2]}, transductive=True)
    assert not torch.allclose(apart, together[:, :2])
