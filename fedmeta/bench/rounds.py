"""Rounds of a federation on demand, so that two federations can take turns."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedmeta.errors import RunError
from fedmeta.federation import Learner, MetaStrategy, Plan, VectorGrid, Workload
from fedmeta.federation.client import TASKS
from fedmeta.federation.flower import as_server
from fedmeta.federation.vector.auto import build_executor
from fedmeta.federation.vector.execution import one_thread
from fedmeta.learning import LearnerSetup, Tensors
from fedmeta.tasks import Population


def small_workload(clients: int) -> Workload:
    """Return MAML on sinusoids: one task a client and round, an MLP of 1,761 numbers."""
    setup = LearnerSetup("maml", {"inner_lr": 0.01, "inner_steps": 1}, "mlp", {"hidden": [40, 40]})
    return Workload("sinusoid", {}, Population(clients), setup, seed=0)


@contextmanager
def federation(workload: Workload, plan: Plan, workers: int) -> Iterator["Rounds"]:
    """Yield rounds in this process, or in workers beside it.

    Args:
        workload: What clients do.
        plan: What the server does.
        workers: Processes that compute; 1 is this one.
    """
    with one_thread(), as_server():
        learner = workload.build()
        with build_executor(learner, workers, plan.rounds) as executor:
            yield Rounds(learner, plan, VectorGrid(learner, executor))


class Rounds:
    """Whole rounds, one a call, on any grid: real messages, gate, aggregation, server step.

    Args:
        learner: Says what states and replies look like.
        plan: What the server does.
        grid: Where the clients are.
    """

    def __init__(self, learner: Learner, plan: Plan, grid: Grid) -> None:
        self.plan = plan
        self.grid = grid
        self.tasks = plan.cohort * learner.workload.tasks_per_round
        self.strategy = MetaStrategy(learner, plan, lambda *_: None)
        self.strategy.connect(grid)
        self._numbers = itertools.count(1)

    @property
    def state(self) -> Tensors:
        """What was learned so far."""
        return self.strategy.snapshot(0).state

    def __call__(self) -> None:
        """Run the next round.

        Raises:
            RunError: If not every reply was admitted.
        """
        number, config = next(self._numbers), ConfigRecord()
        asked = self.strategy.configure_train(number, self.strategy.arrays, config, self.grid)
        replies = self.grid.send_and_receive(asked, timeout=self.plan.timeout)
        _, metrics = self.strategy.aggregate_train(number, replies)
        if metrics is None or metrics[TASKS] != self.tasks:
            raise RunError(f"bench: not all of {self.plan.cohort} replies were admitted")
