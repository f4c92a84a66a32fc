"""SCAFFOLD against the paper's algorithm line by line, and on quadratics whose optimum is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.federation import GateOptions, Learner, Plan, ServerOptions, Workload
from fedmeta.federation.client_memory import StackMemory
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.faults import KINDS, FaultOptions, read_faults
from fedmeta.learning import AlgorithmSetup, Tensors
from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskSpec
from fedmeta.training import simulate

CLIENTS = 6
CURVES = np.array([0.2, 0.5, 1.0, 1.5, 2.0, 3.0])
"""Half the second derivative of each client's loss ``a_i (theta - b_i)^2``."""
CENTRES = np.array([4.0, -3.0, 0.5, 2.0, -1.0, 1.0])
OPTIMUM = float((CURVES * CENTRES).sum() / CURVES.sum())
STEPS, RATE = 8, 0.1


class NoOptions(Options):
    pass


class Quadratics:
    """Client i's one example: ``theta * x`` against y with ``x^2 = a_i`` and ``y = b_i x``."""

    Options: ClassVar[type[Options]] = NoOptions

    def __init__(self, options: NoOptions, population: Population, seed: int) -> None:
        self.population = population
        self.spec = TaskSpec("regression", (1,), 1)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        x = torch.full((count, 1, 1), float(np.sqrt(CURVES[client])), dtype=torch.float64)
        return TaskBatch(x, x * CENTRES[client], x, x * CENTRES[client])


class Line(torch.nn.Module):
    """``theta * x``."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.full((1,), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x


def workload(name: str, **changes: Any) -> Workload:
    here = "tests.learning.algorithms.test_scaffold"
    setup = AlgorithmSetup(name, {}, f"{here}:Line", {})
    plain = Workload(f"{here}:Quadratics", {}, Population(CLIENTS), setup, 0, dtype="float64")
    return replace(plain, local_steps=STEPS, local_lr=RATE, **changes)


def plan(rounds: int, cohort: int = CLIENTS, **more: Any) -> Plan:
    """The server's step is ``x <- x + mean(y - x)``: SGD at the local rate."""
    return Plan(rounds, cohort, server=ServerOptions(optimizer="SGD", lr=RATE), **more)


@dataclass
class ByThePaper:
    """Algorithm 1 of Karimireddy et al. 2020, for one number and option II."""

    x: float = 10.0
    c: float = 0.0

    def __post_init__(self) -> None:
        self.own = np.zeros(CLIENTS)

    def round(self, sampled: Sequence[int]) -> None:
        moved, changed = [], []
        for i in sampled:
            y = self.x
            for _ in range(STEPS):
                gradient = 2 * CURVES[i] * (y - CENTRES[i])
                y = y - RATE * (gradient - self.own[i] + self.c)
            plus = self.own[i] - self.c + (self.x - y) / (STEPS * RATE)
            moved.append(y - self.x)
            changed.append(plus - self.own[i])
            self.own[i] = plus
        self.x += float(np.mean(moved))
        self.c += len(sampled) / CLIENTS * float(np.mean(changed))


def train(name: str, plan: Plan, **options: Any) -> tuple[list[Tensors], list[list[int]], ClientStates]:
    """Return the state after each round, who was admitted in it, and what clients remember."""
    states, admitted, memory = [], [], ClientStates()

    def observe(record: Any, snapshot: Any) -> None:
        states.append(snapshot.state)
        ones = [client.client for client in record.clients if client.admitted]
        admitted.append([] if record.skipped else ones)

    simulate(workload(name), plan, observer=observe, states=memory, **options)
    return states, admitted, memory


def controls(memory: ClientStates, round_: int) -> np.ndarray[Any, Any]:
    """Return each client's control variate as its next request would let it begin."""
    clients = range(CLIENTS)
    learner = Learner.build(workload("scaffold"))
    last = memory.counted(clients, round_ + 1)
    found = StackMemory(learner, memory).begin(clients, last, 0)
    return found["theta"].flatten().numpy()


@pytest.mark.parametrize("cohort", [CLIENTS, 2])
def test_each_round_is_that_of_the_paper(cohort: int) -> None:
    states, sampled, memory = train("scaffold", plan(25, cohort))
    paper = ByThePaper()
    for state, clients in zip(states, sampled, strict=True):
        paper.round(clients)
        np.testing.assert_allclose(state["theta"], [paper.x], rtol=1e-11)
        np.testing.assert_allclose(state["@control.theta"], [paper.c], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(controls(memory, 25), paper.own, rtol=1e-9, atol=1e-12)


def fedavgs_fixed_point() -> float:
    """Where the mean of K local steps stays: each keeps ``(1 - 2 lr a_i)^K`` of its way to b_i."""
    weight = 1 - (1 - 2 * RATE * CURVES) ** STEPS
    return float((weight * CENTRES).sum() / weight.sum())


def test_it_reaches_the_optimum_that_fedavg_with_local_steps_misses() -> None:
    states, _, _ = train("scaffold", plan(100))
    assert states[-1]["theta"].item() == pytest.approx(OPTIMUM, abs=1e-10)
    drifted, _, _ = train("fedavg", plan(100))
    assert drifted[-1]["theta"].item() == pytest.approx(fedavgs_fixed_point(), abs=1e-10)
    assert abs(fedavgs_fixed_point() - OPTIMUM) > 0.08


@pytest.mark.parametrize(
    ("rounds", "options"),
    [
        (plan(40, 4), {}),
        (plan(40, 3, oversample=2), {}),
        (plan(40, 4, gate=GateOptions(max_norm=60.0)), {}),
        (plan(40, 4, quorum=3), {"faults": 0.5}),
    ],
    ids=["partial", "surplus", "refused", "late, lost and broken"],
)
def test_the_servers_control_is_the_mean_of_the_clients(rounds: Plan, options: dict[str, float]) -> None:
    """``c = 1/N sum c_i``: it holds in Algorithm 1 as long as both count the same updates."""
    more: dict[str, Any] = {}
    if rate := options.get("faults"):
        faults = FaultOptions(rates=dict.fromkeys(KINDS, rate / len(KINDS)), seconds=1e4, away=1)
        more["faults"] = read_faults(faults, Population(CLIENTS), rounds.rounds, seed=2)
    states, admitted, memory = train("scaffold", rounds, **more)
    if more or rounds.gate.max_norm < 100:
        assert sum(map(len, admitted)) < 40 * rounds.cohort
    assert len({client for clients in admitted for client in clients}) == CLIENTS
    found = controls(memory, rounds.rounds)
    np.testing.assert_allclose(states[-1]["@control.theta"], [found.mean()], atol=1e-12)


def test_at_test_it_is_fedavg() -> None:
    learner, plain = (Learner.build(workload(name)) for name in ("scaffold", "fedavg"))
    state = learner.init_state() | {"@control.theta": torch.ones(1, dtype=torch.float64)}
    tasks = plain.sample(1, 2)[:1]
    for one in (learner, plain):
        own = {key: value[None] for key, value in state.items() if one is learner or key == "theta"}
        adapted = one.algorithm.adapt(own, tasks.support, 3)
        # 10 -> b + (10 - b) (1 - 2 lr a)^3 with fedavg's default rate of 0.01.
        expected = CENTRES[2] + (10 - CENTRES[2]) * (1 - 0.02 * CURVES[2]) ** 3
        assert adapted["theta"].item() == pytest.approx(expected, rel=1e-12)
