from itertools import chain, islice
from typing import Any

import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithms.reptile import minibatches
from tests.learning.algorithms.test_maml import loss_of
from tests.learning.cases import CASES, make_learner, make_state, make_tasks, relative_error
from tests.learning.reference import from_module, to_module

RATE = 0.1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("name", CASES)
def test_pseudo_gradient_is_the_way_that_training_on_the_task_goes(
    name: str, batch: int | None, optimizer: str
) -> None:
    """Line by line after Nichol et al. 2018, Algorithm 2: train k steps on the task, subtract."""
    learner = make_learner(
        "reptile",
        CASES[name],
        inner_lr=RATE,
        inner_steps=4,
        inner_batch=batch,
        inner_optimizer=optimizer,
    )
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    for task in range(len(tasks)):
        weights = {key: value[task] for key, value in state.items()}
        x = torch.cat([tasks.support_x[task], tasks.query_x[task]])
        y = torch.cat([tasks.support_y[task], tasks.query_y[task]])
        module = to_module(name, weights)
        inner = (
            torch.optim.SGD(module.parameters(), lr=RATE)
            if optimizer == "sgd"
            else torch.optim.Adam(module.parameters(), lr=RATE, betas=(0.0, 0.999))
        )
        for rows in islice(minibatches(len(x), batch), 4):
            inner.zero_grad()
            chosen = list(range(len(x))) if rows is None else rows
            loss_of(CASES[name].spec, module, x[chosen], y[chosen]).backward()
            inner.step()
        trained = from_module(name, [value.detach() for value in module.parameters()], weights)
        expected = {key: weights[key] - trained[key] for key in weights}
        # Adam divides by sqrt(v) + 1e-8, which magnifies rounding where a gradient is nearly zero.
        tolerance = 1e-9 if optimizer == "sgd" else 1e-7
        assert relative_error({key: value[task] for key, value in updates.items()}, expected) < tolerance


def test_adam_with_momentum_follows_torch() -> None:
    name = "sinusoid-mlp"
    learner = make_learner(
        "reptile",
        CASES[name],
        inner_lr=RATE,
        inner_steps=3,
        inner_optimizer="adam",
        beta1=0.9,
        beta2=0.99,
    )
    tasks, state = make_tasks(CASES[name].spec, tasks=1), make_state(learner, tasks=1)
    weights = {key: value[0] for key, value in state.items()}
    module = to_module(name, weights)
    inner = torch.optim.Adam(module.parameters(), lr=RATE, betas=(0.9, 0.99))
    for _ in range(3):
        inner.zero_grad()
        loss_of(CASES[name].spec, module, tasks.support_x[0], tasks.support_y[0]).backward()
        inner.step()
    trained = from_module(name, [value.detach() for value in module.parameters()], weights)
    adapted = learner.adapt(state, tasks.support, 3)
    assert relative_error({key: value[0] for key, value in adapted.items()}, trained) < 1e-9


def test_carried_moments_are_those_of_one_adam_over_all_tasks() -> None:
    """As in the authors' code: the weights go back to the start of each task, Adam's moments do not.

    One task a round and a server's rate of 1 make the state after a round what the task made of it.
    """
    name = "sinusoid-mlp"
    learner = make_learner(
        "reptile",
        CASES[name],
        inner_lr=0.01,
        inner_steps=3,
        inner_optimizer="adam",
        carry_moments=True,
    )
    plain = make_state(learner, tasks=1)
    state = {key: torch.zeros_like(v) if "@adam" in key else v for key, v in plain.items()}
    module = to_module(name, {key: value[0] for key, value in state.items() if "@adam" not in key})
    inner = torch.optim.Adam(module.parameters(), lr=0.01, betas=(0.0, 0.999))
    for round_ in range(3):
        tasks = make_tasks(CASES[name].spec, tasks=3)[round_ : round_ + 1]
        updates, _ = learner.task_updates(state, tasks)
        signs = {key: 1 if learner.key_rule(key).step == "add" else -1 for key in state}
        state = {key: value + signs[key] * updates[key] for key, value in state.items()}
        for _ in range(3):
            inner.zero_grad()
            x = torch.cat([tasks.support_x[0], tasks.query_x[0]])
            y = torch.cat([tasks.support_y[0], tasks.query_y[0]])
            loss_of(CASES[name].spec, module, x, y).backward()
            inner.step()
        weights = {key: value[0] for key, value in state.items() if "@adam" not in key}
        trained = from_module(name, [value.detach() for value in module.parameters()], weights)
        assert relative_error(weights, trained) < 1e-7
    assert float(state["@adam.weight"]) == pytest.approx(1 - 0.999**9)


@pytest.mark.parametrize("options", [{"inner_optimizer": "sgd"}, {"beta1": 0.5}])
def test_only_adam_without_momentum_carries_moments(options: dict[str, Any]) -> None:
    asked = {"inner_optimizer": "adam", "carry_moments": True} | options
    with pytest.raises(ConfigError, match=r"carry_moments needs learner.inner_optimizer = 'adam' and"):
        make_learner("reptile", CASES["sinusoid-mlp"], **asked)


def test_one_full_sgd_step_is_the_gradient_times_the_rate() -> None:
    """Nichol et al. 2018, section 3: with k = 1 Reptile is plain training on the expected loss."""
    case = CASES["conv4-stride"]
    reptile = make_learner("reptile", case, inner_lr=RATE, inner_steps=1)
    fedavg = make_learner("fedavg", case)
    tasks, state = make_tasks(case.spec), make_state(reptile)
    step, _ = reptile.task_updates(state, tasks)
    gradient, _ = fedavg.task_updates(state, tasks)
    assert relative_error(step, {key: RATE * value for key, value in gradient.items()}) < 1e-12


def test_minibatches_pass_over_all_examples_before_any_comes_again() -> None:
    batches = islice(minibatches(7, 3), 7)  # 21 rows: three passes, cut without gaps
    rows = list(chain.from_iterable(batch for batch in batches if batch is not None))
    assert [sorted(rows[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert rows[:7] != rows[7:14]


def test_minibatches_as_large_as_the_task_are_the_task() -> None:
    assert list(islice(minibatches(4, 9), 2)) == [None, None]
