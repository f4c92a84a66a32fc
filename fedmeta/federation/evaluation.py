"""Federated evaluation: clients report sums over their tasks, and the server combines them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmeta.federation.records import INDUCTIVE, Estimate, RoundRecord, StepResult
from fedmeta.learning import CPU, Algorithm, Tensors, chunk_tasks, expand_state, place
from fedmeta.tasks import Measure, Population, Split, TaskBatch
from fedmeta.tasks.measure import LOSS, main_of

Z95 = 1.96
UPPER = 0.975
"""Quantile of a two-sided interval of 95%."""
LARGEST_LOSS = 1e100
"""A larger loss counts as diverged, as sums of squares would overflow soon after."""


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over a client's tasks, one entry per adaptation step.

    A task whose loss is not finite has diverged: it is counted, and left out of the sums.

    Attributes:
        tasks: Number of tasks, including diverged ones.
        sums: Sum of the values, by measure (see `quantities`).
        squares: Sum of their squares, by measure.
        diverged: Number of diverged tasks.
    """

    tasks: int
    sums: dict[str, list[float]]
    squares: dict[str, list[float]]
    diverged: list[int]


def quantities(algorithm: Algorithm) -> dict[str, Measure]:
    """Return the measures that `evaluate_tasks` computes for an algorithm and its model, by name.

    These are the loss and the measures of the tasks' objective; for a model with batch norm also the
    main measure without transduction, as ``inductive_NAME``.
    """
    objective = algorithm.objective
    found = objective.all_measures
    if algorithm.model.batch_norm and objective.has_support and objective.main != LOSS:
        found[INDUCTIVE + objective.main] = objective.measures[objective.main]
    return found


def evaluate_tasks(
    algorithm: Algorithm,
    state: Tensors,
    tasks: TaskBatch,
    steps: Sequence[int],
    device: torch.device = CPU,
) -> EvaluationSums:
    """Adapt to each task's support set and measure its query set after each of `steps`.

    Args:
        algorithm: How to adapt.
        state: The meta-learned state, without a task axis.
        tasks: The tasks, which are computed in chunks that suit the model.
        steps: Increasing numbers of adaptation steps.
        device: Device to compute on; state and tasks may be on another.
    """
    states = expand_state(place(state, device), len(tasks))
    return evaluate_each(algorithm, states, tasks, steps, device)


def evaluate_each(
    algorithm: Algorithm,
    states: Tensors,
    tasks: TaskBatch,
    steps: Sequence[int],
    device: torch.device = CPU,
) -> EvaluationSums:
    """Like `evaluate_tasks`, with each task starting from its own row of `states`, ``[T, ...]``."""
    names = (*quantities(algorithm), "diverged")
    values: dict[str, list[list[Tensor]]] = {name: [[] for _ in steps] for name in names}
    size = chunk_tasks(algorithm.model, device)
    for first in range(0, len(tasks), size):
        chunk = tasks[first : first + size].to(device=device)
        rows = place({key: value[first : first + size] for key, value in states.items()}, device)
        path = algorithm.trajectory(rows, chunk.support, steps)
        for index, (_, adapted) in enumerate(path):
            with torch.no_grad():
                for name, value in _measure(algorithm, rows, adapted, chunk).items():
                    values[name][index].append(value.double())
    joined = {name: [torch.cat(chunks).cpu() for chunks in values[name]] for name in names}
    diverged = [int(value.sum()) for value in joined.pop("diverged")]
    return EvaluationSums(
        len(tasks),
        {name: [float(value.sum()) for value in steps_] for name, steps_ in joined.items()},
        {name: [float(value.square().sum()) for value in steps_] for name, steps_ in joined.items()},
        diverged,
    )


def _measure(algorithm: Algorithm, rows: Tensors, adapted: Tensors, tasks: TaskBatch) -> Tensors:
    objective = algorithm.objective
    prediction = algorithm.predict(rows, adapted, tasks.query)
    loss = objective.loss(prediction, tasks.query)
    finite, main = _is_finite(loss), objective.main
    found = objective.measure(prediction, tasks.query)
    values = {name: found[name] for name in objective.measures}
    if INDUCTIVE + main in quantities(algorithm):
        inductive = algorithm.predict(rows, adapted, tasks.query, transductive=False)
        sound = _is_finite(objective.loss(inductive, tasks.query))
        worst = objective.measures[main].worst
        if worst is None:
            # No number stands for what is not one, so the task counts as diverged.
            finite &= sound
        value = objective.measure(inductive, tasks.query)[main]
        values[INDUCTIVE + main] = value.where(sound, worst or 0.0)
    # The argmax of NaNs is the first class, which may be right by luck.
    measured = {name: value.where(finite, 0.0) for name, value in values.items()}
    return {**measured, LOSS: loss.where(finite, 0.0), "diverged": ~finite}


def _is_finite(loss: Tensor) -> Tensor:
    return loss.double().abs() < LARGEST_LOSS


def merge(
    steps: Sequence[int],
    parts: Iterable[EvaluationSums],
    measures: Mapping[str, Measure],
    asked: int | None = None,
) -> tuple[StepResult, ...]:
    """Combine clients' sums into means with 95% confidence intervals over clients and over tasks.

    Every step has the same clients and tasks: a diverged task counts as the worst, see `StepResult`.

    Args:
        steps: The adaptation steps of the sums.
        parts: Sums of each client that answered.
        measures: The measures of the sums, see `quantities`.
        asked: Number of clients that were asked; None: as many as answered.

    Returns:
        One result per step; none if no client answered.
    """
    parts = list(parts)
    if not parts:
        return ()
    asked = len(parts) if asked is None else asked
    return tuple(_step_result(step, index, parts, measures, asked) for index, step in enumerate(steps))


def with_evaluation(
    record: RoundRecord,
    population: Population,
    steps: Sequence[int],
    measures: Mapping[str, Measure],
    sums: Mapping[int, EvaluationSums],
) -> RoundRecord:
    """Return a round's record with the results of its held-out clients, by split."""

    def results(split: Split) -> tuple[StepResult, ...] | None:
        clients = population.clients(split)
        return merge(steps, (sums[c] for c in clients if c in sums), measures, len(clients)) or None

    return replace(record, evaluation=results("validation"), test=results("test"))


def _step_result(
    step: int,
    index: int,
    parts: Sequence[EvaluationSums],
    measures: Mapping[str, Measure],
    asked: int,
) -> StepResult:
    found = {
        name: _estimate(name, measure, index, parts)
        for name, measure in measures.items()
        if name in parts[0].sums
    }
    tasks = sum(part.tasks for part in parts)
    diverged = [part.diverged[index] for part in parts if part.diverged[index]]
    finite = tasks - sum(diverged)
    return StepResult(
        step=step,
        measures=found,
        scale=measures[main_of(found)],
        tasks=tasks,
        diverged=sum(diverged),
        diverged_clients=len(diverged),
        finite_loss=math.fsum(part.sums[LOSS][index] for part in parts) / finite if finite else None,
        clients=len(parts),
        clients_asked=asked,
    )


def _estimate(name: str, measure: Measure, index: int, parts: Sequence[EvaluationSums]) -> Estimate:
    if measure.worst is None and any(part.diverged[index] for part in parts):
        # A mean that includes an infinite value is infinite and has no confidence interval.
        return Estimate(-math.inf if measure.higher_is_better else math.inf)
    # Diverged tasks count as the worst value.
    worst = measure.worst or 0.0
    sums = [part.sums[name][index] + worst * part.diverged[index] for part in parts]
    squares = [part.squares[name][index] + worst * worst * part.diverged[index] for part in parts]
    n = sum(part.tasks for part in parts)
    # fsum is exact, so the result does not depend on the order of the clients.
    mean = math.fsum(sums) / n
    over_tasks = None
    if n > 1:
        over_tasks = Z95 * math.sqrt(max(math.fsum(squares) - n * mean * mean, 0.0) / (n - 1) / n)
    # A client's residual: its sum less the mean times its number of tasks.
    residuals = [(total - part.tasks * mean) / n for total, part in zip(sums, parts, strict=True)]
    return Estimate(mean, clustered_half_width(residuals), over_tasks)


def clustered_half_width(residuals: Sequence[float]) -> float | None:
    """Return half the 95% interval of a mean whose observations come in G independent clusters.

    It is ``t_{0.975, G-1} sqrt(G / (G-1) sum_g r_g^2)`` with ``r_g`` the sum over cluster g of each
    observation less the mean, divided by the number of observations: the cluster-robust standard error
    of Liang and Zeger (1986) with the small-sample factor and Student's t of Cameron and Miller (2015),
    "A Practitioner's Guide to Cluster-Robust Inference", sections II and VI. If all clusters have the
    same size it is ``t s / sqrt(G)`` with s the standard deviation of the clusters' means.

    Args:
        residuals: ``r_g`` of each cluster.

    Returns:
        Half the interval's width; None for fewer than two clusters.
    """
    count = len(residuals)
    if count < 2:
        return None
    # Imported late: it takes a third of a second, and clients never need it.
    from scipy.special import stdtrit

    total = math.fsum(r * r for r in residuals)
    return float(stdtrit(count - 1, UPPER)) * math.sqrt(total * count / (count - 1))


def counting_missing(
    value: float | None, worst: float | None, answered: int, asked: int
) -> float | None:
    """Return a mean in which missing clients count as the worst, for choosing a checkpoint.

    Args:
        value: Mean over the clients that answered; None or not finite: there is none.
        worst: The worst value of the measure; None: it has none, like a loss.
        answered: Clients that answered.
        asked: Clients that were asked.

    Returns:
        The mean; None if it is not finite or cannot be known.
    """
    if value is None or not math.isfinite(value):
        return None
    if answered >= asked:
        return value
    return None if worst is None else (value * answered + worst * (asked - answered)) / asked
