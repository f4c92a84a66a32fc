"""Describes a round without messages in the form of a federated one."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmeta.errors import LearnersFailedError
from fedmeta.federation.evaluation import EvaluationSums, with_evaluation
from fedmeta.federation.failures import failure_of, report
from fedmeta.federation.learner import Learner
from fedmeta.federation.optimizer import learning_rate
from fedmeta.federation.records import ClientRecord, RoundRecord
from fedmeta.federation.round import Plan
from fedmeta.learning import Tensors


@dataclass(frozen=True)
class Trained:
    """What C learners did in a round.

    Attributes:
        tasks: Tasks of each.
        metrics: Of each learner, ``[C]`` by name.
        norms: Norm of each learner's update; their mean stands in the round's record.
        clients: The learners, where they are clients of the population.
    """

    tasks: int
    metrics: Tensors
    norms: Sequence[float]
    clients: tuple[ClientRecord, ...] = ()


def describe_round(round_: int, plan: Plan, trained: Trained) -> RoundRecord:
    """Return the record of a round in which nothing was sent."""
    means = {name: float(values.double().mean()) for name, values in trained.metrics.items()}
    norms = trained.norms
    return RoundRecord(
        round=round_,
        skipped=False,
        cohort=len(norms),
        admitted=len(norms),
        quarantined=0,
        late=0,
        lost=0,
        surplus=0,
        tasks=len(norms) * trained.tasks,
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
        clients=trained.clients,
    )


def evaluated(
    record: RoundRecord, learner: Learner, plan: Plan, evaluate: Callable[[int], EvaluationSums]
) -> RoundRecord:
    """Return the record with the evaluations that are due after its round.

    Args:
        record: The round.
        learner: Says who is held out.
        plan: Says what is due.
        evaluate: Evaluates one held-out client.
    """
    population, steps = learner.workload.population, learner.workload.evaluation_steps
    due = plan.evaluated(record.round)
    held_out = [client for split in due for client in population.clients(split)]
    sums = evaluate_each_client(evaluate, record.round, held_out)
    return with_evaluation(record, population, steps, sums)


def evaluate_each_client(
    evaluate: Callable[[int], EvaluationSums], round_: int, clients: Iterable[int]
) -> dict[int, EvaluationSums]:
    """Return what `evaluate` returns for each client.

    Raises:
        LearnersFailedError: If it raises.
    """
    sums = {}
    for client in clients:
        try:
            sums[client] = evaluate(client)
        except Exception as error:
            report(round_, client, failure := failure_of(error))
            raise LearnersFailedError(f"client {client} cannot be evaluated: {failure.reason}") from None
    return sums


def euclidean_norm(tensors: Mapping[str, Tensor]) -> float:
    """Return the norm of all values together."""
    squares = (float(torch.linalg.vector_norm(value.double()).square()) for value in tensors.values())
    return math.sqrt(math.fsum(squares))
