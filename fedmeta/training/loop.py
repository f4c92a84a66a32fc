"""The loop over rounds of every way to train: train, check for divergence, evaluate, observe."""

import math
from collections.abc import Callable, Sequence

import torch

from fedmeta.errors import DivergedError
from fedmeta.federation import Plan, RoundRecord, Snapshot
from fedmeta.federation.engines.vector.jobs import one_thread
from fedmeta.federation.evaluation import with_evaluation
from fedmeta.federation.optimizer import learning_rate
from fedmeta.federation.records import ClientRecord
from fedmeta.federation.round_plan import advice
from fedmeta.learning import Tensors
from fedmeta.training.ways import Way

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


def describe_round(  # noqa: PLR0913 (one is optional)
    round_: int,
    plan: Plan,
    tasks: int,
    metrics: Tensors,
    norms: Sequence[float],
    clients: tuple[ClientRecord, ...] = (),
) -> RoundRecord:
    """Return the record of a round in which C learners trained without messages.

    Args:
        round_: The round.
        plan: Gives the learning rate.
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
        lr=learning_rate(plan.server, round_, plan.rounds),
        bytes_down=0,
        bytes_up=0,
        evaluation=None,
        test=None,
        clients=clients,
    )
