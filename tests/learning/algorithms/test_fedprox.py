"""FedProx against FedAvg, and against the closed form of its local steps on a linear loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmeta.learning import LocalWork, Tensors
from fedmeta.tasks import TaskBatch
from fedmeta.training import simulate
from tests.federation.helpers import PLAN, algorithm, assert_same
from tests.learning.cases import CASES, make_learner

WORK = {"local_steps": 4, "local_lr": 0.05}


def test_with_mu_0_it_is_fedavg_bit_for_bit() -> None:
    prox, avg = algorithm("fedprox", {"mu": 0.0}, **WORK), algorithm("fedavg", **WORK)
    states = [simulate(one, PLAN, observer=lambda *_: None).state for one in (prox, avg)]
    assert_same(*states)
    other = algorithm("fedprox", {"mu": 2.0}, **WORK)
    moved = simulate(other, PLAN, observer=lambda *_: None).state
    assert any(not torch.equal(moved[key], value) for key, value in states[1].items())


def linear(slope: float) -> LocalWork:
    """The local work of one client whose loss is ``slope * theta``, whatever the tasks."""
    empty = torch.zeros(8, 1, 1, dtype=torch.float64)

    def task_updates(state: Tensors, _: TaskBatch) -> tuple[Tensors, Tensors]:
        return {"x": torch.full_like(state["x"], slope)}, {"loss": slope * state["x"]}

    return LocalWork([0], TaskBatch(empty, empty, empty, empty), 8, 0.0, task_updates)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_with_a_rate_of_1_over_2_mu_the_update_tends_to_zero_as_1_over_mu(steps: int) -> None:
    """``d <- d - lr (s + mu d)`` with ``lr = 1 / (2 mu)`` halves d: after k steps it is
    ``-(1 - 2^-k) s / mu``."""
    learner, slope = make_learner("fedprox", CASES["sinusoid-mlp"]), 3.0
    start = {"x": torch.tensor([7.0], dtype=torch.float64)}
    for mu in (0.5, 4.0, 1e3, 1e6):
        work = replace(linear(slope), rate=1 / (2 * mu), proximal_mu=mu, steps=steps)
        work = replace(work, tasks=work.tasks[:steps])
        update, memory, _ = learner.local_update(start, {}, work)
        moved = -work.rate * update["x"]
        np.testing.assert_allclose(moved, [-(1 - 0.5**steps) * slope / mu], rtol=1e-12)
        assert memory == {}


def test_the_first_local_step_is_that_of_fedavg() -> None:
    learner, plain = (make_learner(name, CASES["sinusoid-mlp"]) for name in ("fedprox", "fedavg"))
    start = {"x": torch.tensor([7.0], dtype=torch.float64)}
    work = replace(linear(2.0), rate=0.1, steps=1)
    work = replace(work, tasks=work.tasks[:1])
    assert_same(learner.local_update(start, {}, work)[0], plain.local_update(start, {}, work)[0])


def test_a_strategy_may_turn_the_term_off() -> None:
    """Flower's FedProx sends its own weight, and 0 is one."""
    learner, plain = (make_learner(name, CASES["sinusoid-mlp"]) for name in ("fedprox", "fedavg"))
    start = {"x": torch.tensor([7.0], dtype=torch.float64)}
    work = replace(linear(2.0), rate=0.1)
    free = plain.local_update(start, {}, work)[0]
    assert_same(learner.local_update(start, {}, replace(work, proximal_mu=0.0))[0], free)
    assert not torch.equal(learner.local_update(start, {}, work)[0]["x"], free["x"])
