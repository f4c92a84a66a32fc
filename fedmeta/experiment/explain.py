"""Explains predictions of a run's final model on a few test tasks, and writes ``explanations.json``."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedmeta.config import Config
from fedmeta.errors import DataError
from fedmeta.experiment import explanations
from fedmeta.experiment.explanations import (
    MOST_LAYERS,
    MOST_POINTS,
    MOST_STEPS,
    MOST_SUPPORT,
    Explanations,
    FeatureMap,
    Layer,
    Memory,
    QueryEvidence,
    Rate,
    TaskExplanation,
    TensorRates,
)
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.held_out import example_clients, example_task, state_of
from fedmeta.experiment.typed_file import short
from fedmeta.federation import Learner
from fedmeta.files import one_line
from fedmeta.learning import CPU, Tensors, expand_state, one_thread, place
from fedmeta.learning.explain import ExplainedTask, How, support_evidence, without_padding
from fedmeta.learning.representation import (
    adapted_weights,
    features_of,
    layer_changes,
    layer_similarities,
    project,
    separation,
)
from fedmeta.tasks import Examples, Objective, TaskBatch

QUERIES = 10
"""Queries whose predictions are explained, of each task."""
MOST_INPUTS = 300
"""Examples on which layers are compared; of more, as many at equal distances: the work is quadratic."""
SLOTS = 32
"""Slots of a memory that are shown."""
UNUSED = 0.02
"""A slot that is never written to with a larger weight is not shown."""


def write_explanations(
    folder: RunFolder, config: Config, learner: Learner, state: Tensors
) -> str | None:
    """Explain the first ``evaluation.explain`` example tasks, see `write_examples`.

    Returns:
        Why they could not be explained, in one line; None: they were, or none was to be.

    Raises:
        OSError: If the file cannot be written.
    """
    clients = example_clients(learner)[: config.evaluation.explain]
    if not clients:
        return None
    try:
        found = _explanations(config, learner, state, clients)
    except Exception as error:
        # A user's own part may fail on inputs that training never has; the run itself is done.
        return f"predictions are not explained ({type(error).__name__}: {one_line(error, 200)})"
    explanations.write(folder.path, found)
    return None


def _explanations(
    config: Config, learner: Learner, state: Tensors, clients: Sequence[int]
) -> Explanations:
    with one_thread():  # as everywhere in a run: other threads, other bits
        tasks = [_explained(learner, state_of(config, state, one), one) for one in clients]
        rates = _rates(learner, state_of(config, state, clients[0]))
    return Explanations(
        kind="explanations",
        version=1,
        algorithm=config.algorithm[:200],
        steps=config.evaluation.steps[-1],
        tasks=tasks,
        rates=rates,
        initial_rate=getattr(learner.algorithm.options, "inner_lr", None) if rates else None,
    )


def _explained(learner: Learner, state: Tensors, client: int) -> TaskExplanation:
    drawn = example_task(learner, client)
    support, query = without_padding(drawn.support), without_padding(drawn.query)
    rows = expand_state(place(state, learner.device), 1)
    task = ExplainedTask(learner.algorithm, rows, support, query, learner.workload.evaluation_steps[-1])
    labels = _labels(learner.algorithm.objective, support)
    how, note, queries = _evidence(task)
    changes, similarities = _movement(task)
    return TaskExplanation(
        client=client,
        support=labels[:MOST_SUPPORT],
        how=how,
        note=note,
        queries=queries,
        maps=_maps(learner, task),
        changes=changes,
        similarities=similarities,
        memory=_memory(task),
    )


def _evidence(task: ExplainedTask) -> tuple[How | Literal[""], str, list[QueryEvidence]]:
    """Return where evidence comes from, why there is none, and that of some queries."""
    objective = task.algorithm.objective
    labels = _labels(objective, task.query)
    if not (labels and objective.has_support):
        return "", "Support examples are weighed in tasks with one label per example.", []
    if task.support["y"].shape[1] > MOST_SUPPORT:
        return "", f"Support sets of more than {MOST_SUPPORT} examples are not explained.", []
    chosen = _spread(labels, QUERIES)
    # Batch norm takes its statistics from all queries: the others are left out afterwards.
    try:
        found = support_evidence(task)
    except DataError as error:
        return "", f"No support example was left out: {error}.", []
    chances = task.chances(task.support)[0]
    queries = [
        QueryEvidence(
            query=one,
            label=labels[one],
            predicted=int(chances[one].argmax()),
            probability=short(float(chances[one].max())) or 0.0,
            support=[short(value) for value in found.values[one].tolist()],
        )
        for one in chosen
    ]
    return found.how, "", queries


def _spread(labels: Sequence[int], most: int) -> list[int]:
    """Return the places of up to `most` examples: the first of each class, then the second, ..."""
    seen: dict[int, int] = {}
    order = []
    for place_, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], place_))
    return sorted(place_ for _, place_ in sorted(order)[:most])


def _movement(task: ExplainedTask) -> tuple[list[Layer], list[Layer]]:
    """Return each layer's relative change and its CKA before and after adaptation, if weights adapt."""
    found = _before_and_after(task)
    if found is None or task.steps == 0:
        return [], []
    changes = layer_changes(*found)
    similarities: dict[str, float | None] = {}
    objective = task.algorithm.objective
    if type(objective).forward is Objective.forward:
        inputs = torch.cat([objective.inputs(one) for one in (task.support, task.query)], dim=1)
        if inputs.shape[1] > MOST_INPUTS:
            inputs = inputs[:, torch.linspace(0, inputs.shape[1] - 1, MOST_INPUTS).long()]
        similarities = layer_similarities(task.algorithm, *found, inputs)
    return _layers(changes.items()), _layers(similarities.items())


def _before_and_after(task: ExplainedTask) -> tuple[Tensors, Tensors] | None:
    algorithm = task.algorithm
    path = algorithm.trajectory(task.state, task.support, sorted({0, task.steps}))
    weights = [adapted_weights(algorithm, adapted) for _, adapted in path]
    before, after = weights[0], weights[-1]
    return None if before is None or after is None else (before, after)


def _layers(values: Iterable[tuple[str, float | None]]) -> list[Layer]:
    return [
        Layer(name=name[:200], value=None if value is None else short(value))
        for name, value in list(values)[:MOST_LAYERS]
    ]


def _maps(learner: Learner, task: ExplainedTask) -> list[FeatureMap]:
    """Return maps before and after adaptation; or before and after training, if no weights adapt."""
    algorithm = task.algorithm
    labels = [*_labels(algorithm.objective, task.query), *_labels(algorithm.objective, task.support)]
    if not labels or len(labels) > MOST_POINTS or not list(algorithm.model.init(torch.Generator())):
        return []
    found = _before_and_after(task) if algorithm.objective.has_support else None
    if found is not None:
        count = f"{task.steps} step{'' if task.steps == 1 else 's'}"
        named = zip(("before adaptation", f"after {count}"), found, strict=True)
    else:
        untrained = expand_state(place(learner.template, learner.device), 1)
        named = zip(("untrained", "trained"), (untrained, task.state), strict=True)
    maps = [_map(task, name, weights, labels) for name, weights in named]
    return [one for one in maps if one is not None]


def _map(task: ExplainedTask, name: str, weights: Tensors, labels: list[int]) -> FeatureMap | None:
    algorithm = task.algorithm
    statistics = algorithm.statistics(algorithm.context(task.support))
    asked = features_of(algorithm, weights, task.query, statistics)
    seen = features_of(algorithm, weights, task.support) if algorithm.objective.has_support else None
    if asked is None:
        return None
    features = asked[0] if seen is None else torch.cat([asked[0], seen[0]])
    if len(features) != len(labels) or not bool(features.isfinite().all()):
        return None
    points, shares = project(features)
    queries = asked.shape[1]
    apart = separation(features, torch.tensor(labels))
    return FeatureMap(
        name=name,
        shares=[short(one) or 0.0 for one in shares],
        separation=None if apart is None else short(apart),
        x=[short(one) or 0.0 for one in points[:, 0].tolist()],
        y=[short(one) or 0.0 for one in points[:, 1].tolist()],
        labels=labels,
        queries=queries,
    )


def _memory(task: ExplainedTask) -> Memory | None:
    algorithm = task.algorithm
    labels = _labels(algorithm.objective, task.query)
    if algorithm.objective.has_support:
        asked = _spread(labels, QUERIES) if labels else slice(QUERIES)
        query: Examples = {key: value[:, asked] for key, value in task.query.items()}
    else:
        query = task.query
    found = algorithm.memory_access(task.state, TaskBatch(task.support, query))
    if found is None or len(found[0][0]) > MOST_STEPS:
        return None
    reads, writes = (one[0] for one in found)
    used = writes.amax(0)
    most = used.argsort(descending=True, stable=True)[:SLOTS].tolist()
    slots = sorted(most[:1] + [one for one in most[1:] if used[one] > UNUSED])
    return Memory(
        steps=_step_names(algorithm.objective, task.support, query),
        slots=slots,
        reads=_rows(reads[:, slots]),
        writes=_rows(writes[:, slots]),
    )


def _step_names(objective: Objective, support: Examples, query: Examples) -> list[str]:
    if not objective.has_support:
        return [f"{i}: class {label}" for i, label in enumerate(_labels(objective, query), 1)]
    counts = [one["x"].shape[1] for one in (support, query)]
    shown, asked = (_labels(objective, one) for one in (support, query))
    names = [f"{i}" + (f": class {shown[i - 1]}" if shown else "") for i in range(1, counts[0] + 1)]
    for i in range(1, counts[1] + 1):
        names.append(f"query {i}" + (f": class {asked[i - 1]}" if asked else ""))
    return names


def _rows(values: Tensor) -> list[list[float]]:
    return [[short(one) or 0.0 for one in row] for row in values.tolist()]


def _rates(learner: Learner, state: Tensors) -> list[TensorRates]:
    ends = torch.tensor([0.1, 0.9])
    found = []
    for name, rates in learner.algorithm.learned_rates(place(state, CPU)).items():
        steps = []
        for row in rates.float():
            low, high = row.quantile(ends).tolist()
            mean, low, high = (short(one) or 0.0 for one in (float(row.mean()), low, high))
            steps.append(Rate(mean=mean, low=low, high=high))
        found.append(TensorRates(name=name[:200], steps=steps))
    return found[:MOST_LAYERS]


def _labels(objective: Objective, examples: Examples) -> list[int]:
    """Return the class of each example of a task; empty if examples do not have one each."""
    if not objective.labels or objective.spec.vocabulary or "y" not in examples:
        return []
    return [int(one) for one in examples["y"][0].tolist()]
