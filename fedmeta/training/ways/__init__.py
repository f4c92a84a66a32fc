"""`Way`: the interface of a way to train; each is one module here."""

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
from fedmeta.federation.engines.vector.jobs import one_thread
from fedmeta.federation.failures import failure_of, report
from fedmeta.federation.learner import CohortUpdate
from fedmeta.learning import Tensors
from fedmeta.registry import Registry
from fedmeta.tasks import Split

WAYS: Registry[type["Way"]] = parts.WAYS
"""The ways to train by name; each is one file of `fedmeta.training.ways`."""


@dataclass(frozen=True)
class TrainingSetup:
    """What a way to train is built from.

    Attributes:
        federation: Leads to the clients, and holds their side of the run in this process.
        plan: What happens each round.
        start: Where an earlier run stood; None: begin at the beginning.
        rewards: How clients are known and paid, where there is a federation.
    """

    federation: Federation
    plan: Plan
    start: Snapshot | None = None
    rewards: Rewards = field(default_factory=Rewards)


class Way(ABC):
    """What a way to train does in a round, and how it evaluates what it has learned.

    Args:
        setup: What it is built from.
    """

    model_per_client: ClassVar[bool] = False
    """Whether each training client has a model of its own: the state then is ``[C, ...]`` by key."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.learner = setup.federation.learner
        self.federation = setup.federation
        self.plan = setup.plan
        self.start = setup.start
        self._states = setup.federation.states or ClientStates()

    def remembered(self, learner: Learner, round_: int, clients: Sequence[int]) -> Tensors:
        """Return what learners in this process remember before a round, ``[C, ...]``."""
        if not learner.memory_template:
            return {}
        counted = self._states.counted(clients, round_)
        return StackMemory(learner, self._states).begin(clients, counted, self.plan.oldest(round_))

    def remember(self, learner: Learner, round_: int, update: CohortUpdate) -> None:
        """Let learners in this process remember a round: their update counts."""
        if not learner.memory_template:
            return
        StackMemory(learner, self._states).propose(round_, update, update.clients)
        self._states.count(round_, update.clients, self.plan.oldest(round_))

    @property
    @abstractmethod
    def state(self) -> Tensors:
        """A copy of what was learned so far."""

    @abstractmethod
    def train(self, round_: int) -> RoundRecord:
        """Take one round; return what happened in it.

        Raises:
            RunError: If the round cannot be taken.
        """

    @abstractmethod
    def export(self) -> Tensors:
        """Return what is remembered from round to round beside the state, as flat tensors."""

    def evaluate(
        self, state: Tensors, round_: int, clients: Sequence[int]
    ) -> Mapping[int, EvaluationSums]:
        """Evaluate a state on held-out clients, in this process.

        Args:
            state: The state.
            round_: The round after which this is; 0: after the last.
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
