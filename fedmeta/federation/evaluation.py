"""Evaluation that gives away no example: clients report sums over tasks, the server adds them up."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmeta.federation.records import RoundRecord, StepResult
from fedmeta.learning import Algorithm, Tensors, expand_state, per_task_accuracy, per_task_loss
from fedmeta.tasks import Population, Split, TaskBatch

Z95 = 1.96


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over a client's tasks, one entry per adaptation step.

    Attributes:
        tasks: How many tasks.
        sums: By quantity (``loss``, ``accuracy``, ``inductive_accuracy``) the sum of its values.
        squares: By quantity the sum of their squares.
    """

    tasks: int
    sums: dict[str, list[float]]
    squares: dict[str, list[float]]


def quantities(algorithm: Algorithm) -> tuple[str, ...]:
    """Return what `evaluate_tasks` measures for an algorithm and its model."""
    if algorithm.spec.kind != "classification":
        return ("loss",)
    return (
        ("loss", "accuracy", "inductive_accuracy")
        if algorithm.model.batch_norm
        else ("loss", "accuracy")
    )


def evaluate_tasks(
    algorithm: Algorithm, state: Tensors, tasks: TaskBatch, steps: Sequence[int]
) -> EvaluationSums:
    """Adapt to each task's support set and measure its query set after each of `steps`.

    Args:
        algorithm: How to adapt.
        state: The meta-learned state, without a task axis.
        tasks: The tasks; they are computed in chunks that suit the model.
        steps: Increasing numbers of adaptation steps.
    """
    return evaluate_each(algorithm, expand_state(state, len(tasks)), tasks, steps)


def evaluate_each(
    algorithm: Algorithm, states: Tensors, tasks: TaskBatch, steps: Sequence[int]
) -> EvaluationSums:
    """As `evaluate_tasks`, each task from its own row of `states`, ``[T, ...]``."""
    names = quantities(algorithm)
    values: dict[str, list[list[Tensor]]] = {name: [[] for _ in steps] for name in names}
    size = max(1, algorithm.model.chunk_tasks)
    for first in range(0, len(tasks), size):
        chunk = tasks[first : first + size]
        rows = {key: value[first : first + size] for key, value in states.items()}
        path = algorithm.trajectory(rows, chunk.support_x, chunk.support_y, steps)
        for index, (_, adapted) in enumerate(path):
            with torch.no_grad():
                for name, value in _measure(algorithm, rows, adapted, chunk).items():
                    values[name][index].append(value.double())
    joined = {name: [torch.cat(chunks) for chunks in values[name]] for name in names}
    return EvaluationSums(
        len(tasks),
        {name: [float(value.sum()) for value in joined[name]] for name in names},
        {name: [float(value.square().sum()) for value in joined[name]] for name in names},
    )


def _measure(algorithm: Algorithm, rows: Tensors, adapted: Tensors, tasks: TaskBatch) -> Tensors:
    prediction = algorithm.predict(rows, adapted, tasks.query_x)
    measured = {"loss": per_task_loss(algorithm.spec, prediction, tasks.query_y)}
    if algorithm.spec.kind == "classification":
        measured["accuracy"] = per_task_accuracy(prediction, tasks.query_y)
        if algorithm.model.batch_norm:
            inductive = algorithm.predict(rows, adapted, tasks.query_x, transductive=False)
            measured["inductive_accuracy"] = per_task_accuracy(inductive, tasks.query_y)
    return measured


def merge(steps: Sequence[int], parts: Iterable[EvaluationSums]) -> tuple[StepResult, ...]:
    """Turn the sums of all clients into means and 95% confidence intervals over tasks.

    Returns:
        One result per step; none if there was no part.
    """
    parts = list(parts)
    if not parts:
        return ()
    return tuple(_step_result(step, index, parts) for index, step in enumerate(steps))


def with_evaluation(
    record: RoundRecord,
    population: Population,
    steps: Sequence[int],
    sums: Mapping[int, EvaluationSums],
) -> RoundRecord:
    """Return a round's record with what its held-out clients reported, split by split."""

    def results(split: Split) -> tuple[StepResult, ...] | None:
        return merge(steps, (sums[c] for c in population.clients(split) if c in sums)) or None

    return replace(record, evaluation=results("validation"), test=results("test"))


def _step_result(step: int, index: int, parts: Sequence[EvaluationSums]) -> StepResult:
    stats = {name: _mean_and_ci(name, index, parts) for name in parts[0].sums}
    loss, loss_ci95 = stats["loss"]
    accuracy, ci95 = stats.get("accuracy", (None, loss_ci95))
    inductive, inductive_ci95 = stats.get("inductive_accuracy", (None, None))
    tasks = sum(part.tasks for part in parts)
    return StepResult(step, loss, accuracy, ci95, tasks, loss_ci95, inductive, inductive_ci95)


def _mean_and_ci(name: str, index: int, parts: Sequence[EvaluationSums]) -> tuple[float, float]:
    n = sum(part.tasks for part in parts)
    # fsum is exact, so the result does not depend on the order of the clients.
    mean = math.fsum(part.sums[name][index] for part in parts) / n
    square = math.fsum(part.squares[name][index] for part in parts)
    variance = max(square - n * mean * mean, 0.0) / (n - 1) if n > 1 else 0.0
    return mean, Z95 * math.sqrt(variance / n)
