"""The loop over rounds of every way to train; training and evaluation of a workload on this machine."""

from collections.abc import Callable, Mapping, Sequence

import torch
from flwr.clientapp.typing import Mod

from fedmeta.errors import DivergedError, UsageError
from fedmeta.federation import (
    Federation,
    Learner,
    Plan,
    Rewards,
    RoundRecord,
    Signatures,
    Snapshot,
    StepResult,
    Workload,
    merge,
)
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.engines.vector import open_vector
from fedmeta.federation.engines.vector.jobs import Workers
from fedmeta.federation.evaluation import with_evaluation
from fedmeta.federation.faults import FaultPlan, with_faults
from fedmeta.federation.round_plan import advice
from fedmeta.learning import Tensors
from fedmeta.learning.device import one_thread
from fedmeta.tasks import Split
from fedmeta.training.ways import WAYS, TrainingSetup, Way

Observer = Callable[[RoundRecord, Snapshot], None]
"""Called after each round with its record and a snapshot of the run."""


def run_rounds(way: Way, observer: Observer) -> Snapshot:
    """Run the remaining rounds.

    Args:
        way: How to train.
        observer: Called after each round.

    Returns:
        A snapshot after the last round.

    Raises:
        DivergedError: If the state, or every update to it, became non-finite.
        RunError: If a round fails.
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
    measures = way.learner.evaluation_measures
    return with_evaluation(record, workload.population, workload.evaluation_steps, measures, sums)


def _require_finite(state: Tensors, record: RoundRecord, way: Way) -> None:
    """Raise if a value of the state is NaN or Inf; name the client if each has its own model."""
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


def simulate(  # noqa: PLR0913 (all but two are optional)
    workload: Workload,
    plan: Plan,
    *,
    observer: Observer,
    start: Snapshot | None = None,
    workers: Workers = 1,
    mods: Mapping[int, Sequence[Mod]] | None = None,
    rewards: Rewards | None = None,
    faults: FaultPlan | None = None,
    training: str = "federated",
    states: ClientStates | None = None,
) -> Snapshot:
    """Train with all clients on this machine.

    The result is a function of workload, plan, mods and faults: neither the number of workers nor a
    restart from a snapshot changes a bit of it.

    Args:
        workload: The clients' work.
        plan: The server's settings.
        observer: Called after each round.
        start: Snapshot of an earlier run to continue from.
        workers: Processes that compute; ``auto`` measures first.
        mods: Flower mods by client, for instance to simulate misbehaving ones.
        rewards: How clients are identified and paid; None: neither.
        faults: Injected faults of clients and replies; None: no faults.
        training: The way to train: ``federated``, ``centralized`` or ``local``.
        states: Clients' memory; None: it is held in RAM and lost after the run.

    Raises:
        UsageError: If the parts do not fit each other or data cannot be read.
        LearnersFailedError: If a centralized or local learner cannot learn or be evaluated.
        DivergedError: If the state, or every update to it, became non-finite.
    """
    rewards = rewards or Rewards()
    signatures = rewards.signatures
    if signatures is not None and not isinstance(signatures, Signatures):
        raise UsageError("clients in this process have no keys: clients that sign are on nodes")
    with one_thread():
        learner = Learner.build(workload)
        states = states or ClientStates()
        states.rewind(start.round if start else 0)
        with open_vector(learner, workers, plan.rounds, mods, signatures, faults, states) as grid:
            first = start.round + 1 if start else 1
            faulty = with_faults(grid, faults, first) if faults else grid
            federation = Federation(learner, faulty, in_turn=True, states=states)
            setup = TrainingSetup(federation, plan, start, rewards)
            return run_rounds(WAYS.get(training)(setup), observer)


def evaluate(
    workload: Workload, state: Tensors, split: Split, workers: Workers = 1
) -> tuple[StepResult, ...]:
    """Evaluate a state on the clients of one split.

    Returns:
        Means over all tasks with confidence intervals, one result per adaptation step; none if the split
        has no clients.

    Raises:
        LearnersFailedError: If no client of the split could be evaluated.
    """
    with one_thread():
        learner = Learner.build(workload)
        with open_vector(learner, workers) as grid:
            found = Federation(learner, grid, in_turn=True).test(state, split, Plan.timeout)
    clients = workload.population.clients(split)
    return merge(workload.evaluation_steps, found.values(), learner.evaluation_measures, len(clients))
