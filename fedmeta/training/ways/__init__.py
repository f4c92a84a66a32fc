"""`Way`: the base class of ways to train, one per module."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from fedmeta import parts
from fedmeta.errors import LearnersFailedError
from fedmeta.federation import (
    EvaluationSums,
    Federation,
    Learner,
    Plan,
    Rewards,
    RoundRecord,
    Snapshot,
)
from fedmeta.federation.client_memory import StackMemory
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.failures import failure_of, report
from fedmeta.federation.learner import CohortUpdate
from fedmeta.federation.optimizer import learning_rate
from fedmeta.federation.records import ClientRecord
from fedmeta.learning import Tensors
from fedmeta.learning.device import one_thread
from fedmeta.registry import Registry
from fedmeta.tasks import Split

WAYS: Registry[type["Way"]] = parts.WAYS
"""The ways to train, by name of their file in `fedmeta.training.ways`."""


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a way to train.

    Attributes:
        federation: Access to the clients, and their learner in this process.
        plan: The settings of each round.
        start: Snapshot to continue from; None: start at round 1.
        rewards: How clients are identified and paid, in federated training.
    """

    federation: Federation
    plan: Plan
    start: Snapshot | None = None
    rewards: Rewards = field(default_factory=Rewards)


class Way(ABC):
    """Base class: runs a round of training, and evaluates what was learned.

    Args:
        setup: Its parts.
    """

    model_per_client: ClassVar[bool] = False
    """Whether each training client has its own model, so the state is ``[C, ...]`` by key."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.learner = setup.federation.learner
        self.federation = setup.federation
        self.plan = setup.plan
        self.start = setup.start
        self._states = setup.federation.states or ClientStates()

    def remembered(self, learner: Learner, round_: int, clients: Sequence[int]) -> Tensors:
        """Return the memory of learners in this process before a round, ``[C, ...]``."""
        if not learner.memory_template:
            return {}
        counted = self._states.counted(clients, round_)
        return StackMemory(learner, self._states).begin(clients, counted, self.plan.oldest(round_))

    def remember(self, learner: Learner, round_: int, update: CohortUpdate) -> None:
        """Store the memory of learners in this process after a round, whose update counts."""
        if not learner.memory_template:
            return
        StackMemory(learner, self._states).propose(round_, update, update.clients)
        self._states.count(round_, update.clients, self.plan.oldest(round_))

    @property
    @abstractmethod
    def state(self) -> Tensors:
        """A copy of the current state."""

    @abstractmethod
    def train(self, round_: int) -> RoundRecord:
        """Run one round and return its record.

        Raises:
            RunError: If the round fails.
        """

    @abstractmethod
    def export(self) -> Tensors:
        """Return what is kept between rounds besides the state, as flat tensors."""

    def evaluate(
        self, state: Tensors, round_: int, clients: Sequence[int]
    ) -> Mapping[int, EvaluationSums]:
        """Evaluate a state on held-out clients, in this process.

        Args:
            state: The state.
            round_: Evaluate after this round; 0: after the last.
            clients: Partition ids.

        Raises:
            LearnersFailedError: If a client cannot be evaluated.
        """
        sums = {}
        with one_thread():
            for client in clients:
                try:
                    sums[client] = self.evaluate_client(state, round_, client)
                except Exception as error:
                    report(round_, client, failure := failure_of(error))
                    why = f"client {client} cannot be evaluated: {failure.reason}"
                    raise LearnersFailedError(why) from None
        return sums

    def evaluate_client(self, state: Tensors, round_: int, client: int) -> EvaluationSums:
        """Evaluate a state on one held-out client, in this process."""
        return self.learner.evaluate(state, client, round_)

    def test(self, state: Tensors, split: Split) -> Mapping[int, EvaluationSums]:
        """Evaluate a final state on the clients of a split.

        Returns:
            Each client's sums by its id; nothing if the split has no clients.

        Raises:
            LearnersFailedError: If no client could be evaluated.
        """
        return self.federation.test(state, split, self.plan.timeout)

    def describe_round(
        self,
        round_: int,
        tasks: int,
        metrics: Tensors,
        norms: Sequence[float],
        clients: tuple[ClientRecord, ...] = (),
    ) -> RoundRecord:
        """Return the record of a round in which C learners trained without messages.

        Args:
            round_: The round.
            tasks: Tasks of each learner.
            metrics: Each learner's metrics, ``[C]`` by name.
            norms: Norm of each learner's update; the record has their mean.
            clients: The learners' records, if they are clients of the population.
        """
        means = {name: float(values.double().mean()) for name, values in metrics.items()}
        return RoundRecord(
            round=round_,
            skipped=False,
            cohort=len(norms),
            admitted=len(norms),
            quarantined=0,
            late=0,
            lost=0,
            surplus=0,
            tasks=len(norms) * tasks,
            measures=means,
            update_norm=math.fsum(norms) / len(norms),
            lr=learning_rate(self.plan.server, round_, self.plan.rounds),
            bytes_down=0,
            bytes_up=0,
            evaluation=None,
            test=None,
            clients=clients,
        )
