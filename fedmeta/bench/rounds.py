"""Rounds of a federation on demand, so that two federations can take turns."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import ConfigRecord

from fedmeta.errors import RunError
from fedmeta.federation import MetaStrategy, Plan, VectorGrid, Workload
from fedmeta.federation.client import TASKS
from fedmeta.federation.flower import as_server
from fedmeta.federation.vector.auto import build_executor
from fedmeta.federation.vector.execution import one_thread


@contextmanager
def federation(workload: Workload, plan: Plan, workers: int) -> Iterator[Callable[[], None]]:
    """Yield a function that runs one more whole round: real messages, gate, aggregation, server step.

    Args:
        workload: What clients do.
        plan: What the server does.
        workers: Processes that compute; 1 is this one.
    """
    with one_thread(), as_server():
        learner = workload.build()
        with build_executor(learner, workers, plan.rounds) as executor:
            grid = VectorGrid(learner, executor)
            strategy = MetaStrategy(learner, plan, lambda *_: None)
            strategy.connect(grid)
            numbers = itertools.count(1)
            config = ConfigRecord()

            def next_round() -> None:
                number = next(numbers)
                asked = strategy.configure_train(number, strategy.arrays, config, grid)
                _, metrics = strategy.aggregate_train(number, grid.send_and_receive(asked))
                expected = plan.cohort * workload.tasks_per_round
                if metrics is None or metrics[TASKS] != expected:
                    raise RunError(f"bench: not all of {plan.cohort} replies were admitted")

            yield next_round
