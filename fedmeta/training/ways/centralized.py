"""Centralized training on the tasks of all clients."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import LearnersFailedError
from fedmeta.federation import Learner, RoundRecord, ServerOptimizer
from fedmeta.federation.failures import report
from fedmeta.federation.learner import CohortUpdate
from fedmeta.learning import Tensors
from fedmeta.tasks import TaskBatch, stream
from fedmeta.training.ways import TrainingSetup, Way


class Centralized(Way):
    """Takes a step on ``cohort * tasks_per_client`` pooled tasks for each federated local step.

    Algorithm, optimizer, schedule and task budget are those of the federated run, without messages: with
    one client that holds all data, the result equals the federated one bit for bit.

    Args:
        setup: Its parts.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        super().__init__(setup)
        self._pooled = PooledLearner(self.learner, self.plan.cohort)
        initial = self.start.state if self.start else self.learner.template
        added, postprocessing = self.learner.added_keys, self.learner.postprocessing("server")
        self._optimizer = ServerOptimizer(
            self.plan.server, initial, self.plan.rounds, added, postprocessing
        )
        if self.start:
            self._optimizer.restore(self.start.optimizer)

    @property
    @override
    def state(self) -> Tensors:
        return self._optimizer.state

    @override
    def train(self, round_: int) -> RoundRecord:
        update = self._update(round_)
        gradient = {key: value[0] for key, value in update.updates.items()}
        self._optimizer.step(round_, gradient)
        self.remember(self._pooled, round_, update)
        norms = [euclidean_norm(gradient)]
        return self.describe_round(round_, update.tasks, update.metrics, norms)

    @override
    def export(self) -> Tensors:
        return self._optimizer.export()

    def _update(self, round_: int) -> CohortUpdate:
        memory = self.remembered(self._pooled, round_, [0])
        update = self._pooled.train(self.state, round_, [0], memory)
        for failure in update.failures.values():
            report(round_, None, failure)
            raise LearnersFailedError(
                f"round {round_}: training on the pooled tasks failed: {failure.reason}"
            )
        return update


class PooledLearner(Learner):
    """One learner with the tasks of all training clients, and a cohort's number of tasks per step.

    Each task is of a client drawn at random, so a step's tasks are independent draws from the pool. One
    client's draws in a round use the same random stream as in federated training: a single client gets
    the same tasks.

    Args:
        learner: The clients' side of the federated run.
        cohort: Clients per round there.
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
        # They are sorted by owner; restoring the order of the draw mixes owners over local steps.
        order = torch.from_numpy(np.argsort(np.argsort(owners, kind="stable"), kind="stable"))
        return TaskBatch.concat(drawn)[order].to(self.dtype)


def euclidean_norm(tensors: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm over all tensors."""
    squares = (float(torch.linalg.vector_norm(value.double()).square()) for value in tensors.values())
    return math.sqrt(math.fsum(squares))
