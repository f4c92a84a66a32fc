"""Centralized training on the tasks of all clients."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from typing_extensions import override

from fedmeta.errors import LearnersFailedError
from fedmeta.federation.engines.vector.execution import one_thread
from fedmeta.federation.failures import report
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.federation.optimizer import ServerOptimizer
from fedmeta.federation.records import Snapshot
from fedmeta.federation.round import Plan, require_finite
from fedmeta.federation.strategy import Observer
from fedmeta.federation.workload import Workload
from fedmeta.learning import Tensors, keep_freed_memory
from fedmeta.tasks import TaskBatch, stream
from fedmeta.training.rounds import Trained, describe_round, euclidean_norm, evaluated


class PooledLearner(Learner):
    """One learner that has the tasks of all training clients, as many a step as a cohort would have.

    Each task is of a client drawn at random, so that a step's tasks are independent draws from the pool.
    The draws of one client in one round come from the same stream as in federated training: where there
    is a single client, they are the same tasks.

    Args:
        learner: The clients' side of the federated run.
        cohort: Clients a round there.
    """

    def __init__(self, learner: Learner, cohort: int) -> None:
        step = learner.workload.tasks_per_client * cohort
        workload = replace(learner.workload, tasks_per_client=step)
        super().__init__(workload, learner.family, learner.algorithm)

    @override
    def sample(self, round_: int, client: int) -> TaskBatch:
        """Draw the tasks of a round from the pool; `client` is the one learner."""
        seed, sources = self.workload.seed, self.workload.population.train
        owners = stream(seed, "pooled", round_).integers(0, sources, self.workload.tasks_per_round)
        drawn = [
            self.family.sample(owner, int((owners == owner).sum()), stream(seed, "train", round_, owner))
            for owner in np.unique(owners).tolist()
        ]
        # They come owner by owner; the order of the draw mixes the owners over the local steps.
        order = torch.from_numpy(np.argsort(np.argsort(owners, kind="stable"), kind="stable"))
        return TaskBatch.concat(drawn)[order].to(self.dtype)


def train_centralized(
    workload: Workload, plan: Plan, observer: Observer, start: Snapshot | None = None
) -> Snapshot:
    """Train on the pooled tasks, a step of ``cohort * tasks_per_client`` tasks for each local step.

    It is the algorithm, the optimizer, the schedule and the task budget of the federated run, without
    messages: with one client that holds all data, the result is the federated one bit for bit.

    Args:
        workload: What clients would do.
        plan: What the server would do.
        observer: Called after each round.
        start: Snapshot of an earlier run to go on from.

    Raises:
        UsageError: If the parts do not fit each other or data cannot be read.
        LearnersFailedError: If the pooled tasks cannot be drawn or learned from.
        DivergedError: If the state turned non-finite.
    """
    keep_freed_memory()
    with one_thread():
        learner = PooledLearner(workload.build(), plan.cohort)
        optimizer = ServerOptimizer(plan.server, start.state if start else learner.template, plan.rounds)
        if start:
            optimizer.restore(start.optimizer)
        first = start.round + 1 if start else 1
        for round_ in range(first, plan.rounds + 1):
            update = _pooled_update(learner, optimizer.state, round_)
            gradient = {key: value[0] for key, value in update.updates.items()}
            optimizer.step(round_, gradient)
            state = optimizer.state
            require_finite(state, round_, plan)
            record = describe_round(
                round_, plan, Trained(update.tasks, update.metrics, [euclidean_norm(gradient)])
            )
            record = evaluated(record, learner, plan, partial(learner.evaluate, state, round_=round_))
            observer(record, Snapshot(round_, state, optimizer.export()))
        return Snapshot(max(plan.rounds, first - 1), optimizer.state, optimizer.export())


def _pooled_update(learner: PooledLearner, state: Tensors, round_: int) -> CohortUpdate:
    update = learner.train(state, round_, [0])
    for failure in update.failures.values():
        report(round_, None, failure)
        raise LearnersFailedError(
            f"round {round_}: the pooled tasks cannot be learned from: {failure.reason}"
        )
    return update
