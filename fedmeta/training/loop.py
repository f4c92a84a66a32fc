"""The rounds of a run, in whichever way it trains: train, look for divergence, evaluate, observe."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from fedmeta.errors import DivergedError, LearnersFailedError
from fedmeta.federation import EvaluationSums, Federation, Plan, Rewards, RoundRecord, Snapshot
from fedmeta.federation.engines.vector.execution import one_thread
from fedmeta.federation.evaluation import with_evaluation
from fedmeta.federation.failures import failure_of, report
from fedmeta.federation.optimizer import learning_rate
from fedmeta.federation.records import ClientRecord
from fedmeta.federation.round import advice
from fedmeta.learning import Tensors
from fedmeta.registry import Registry
from fedmeta.tasks import Split

Observer = Callable[[RoundRecord, Snapshot], None]
"""Told after each round what happened, and where the run stands."""

WAYS: Registry[type["Way"]] = Registry("training", "fedmeta.training.ways")
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


def run_rounds(way: Way, observer: Observer) -> Snapshot:
    """Take the rounds that are left, one after the other.

    Args:
        way: How to train.
        observer: Called after each round.

    Returns:
        Where the run stands after its last round.

    Raises:
        DivergedError: If the state, or every update to it, turned non-finite.
        RunError: If a round cannot be taken.
    """
    plan, done = way.plan, way.start.round if way.start else 0
    with one_thread():
        for round_ in range(done + 1, plan.rounds + 1):
            record = way.train(round_)
            state = way.state
            _require_finite(state, record, way)
            record = _evaluated(way, state, record)
            observer(record, Snapshot(round_, state, way.export()))
        return Snapshot(max(plan.rounds, done), way.state, way.export())


def _evaluated(way: Way, state: Tensors, record: RoundRecord) -> RoundRecord:
    """Return a round's record with the evaluations that are due after it."""
    workload = way.learner.workload
    due = way.plan.evaluated(record.round)
    clients = [client for split in due for client in workload.population.clients(split)]
    if not clients:
        return record
    sums = way.evaluate(state, record.round, clients)
    return with_evaluation(record, workload.population, workload.evaluation_steps, sums)


def _require_finite(state: Tensors, record: RoundRecord, way: Way) -> None:
    """Raise if a value of the state is NaN or Inf; with a model for each client, say whose."""
    for key, value in state.items():
        finite = torch.isfinite(value)
        if bool(finite.all()):
            continue
        who = ""
        if way.model_per_client:
            rows = finite.reshape(len(finite), -1).all(1)
            first = int((~rows).nonzero()[0])
            who = f"client {first}: "
        raise DivergedError(
            f"{who}round {record.round} diverged: the server's step made '{key}' non-finite; "
            f"{advice(way.plan)}"
        )


def describe_round(  # noqa: PLR0913 (one is optional)
    round_: int,
    plan: Plan,
    tasks: int,
    metrics: Tensors,
    norms: Sequence[float],
    clients: tuple[ClientRecord, ...] = (),
) -> RoundRecord:
    """Return the record of a round in which C learners trained and nothing was sent.

    Args:
        round_: The round.
        plan: Says the learning rate.
        tasks: Tasks of each learner.
        metrics: Of each learner, ``[C]`` by name.
        norms: Norm of each learner's update; their mean stands in the record.
        clients: The learners, where they are clients of the population.
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
        loss=means["loss"],
        loss_before=means["loss_before"],
        accuracy=means.get("accuracy"),
        accuracy_before=means.get("accuracy_before"),
        update_norm=math.fsum(norms) / len(norms),
        lr=learning_rate(plan.server, round_, plan.rounds),
        bytes_down=0,
        bytes_up=0,
        evaluation=None,
        test=None,
        clients=clients,
    )
