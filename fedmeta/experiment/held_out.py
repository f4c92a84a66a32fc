"""Final test of a run on its test clients, and example tasks for the report."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from fedmeta.config import Config
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.planning import model_per_client
from fedmeta.federation import Learner, StepResult, merge
from fedmeta.files import to_json, write_atomically
from fedmeta.learning import CPU, Tensors, expand_state, place
from fedmeta.learning.device import one_thread
from fedmeta.tasks import MASK, Examples, Objective, TaskBatch, stream
from fedmeta.training import Way, model_for


@dataclass(frozen=True)
class Tested:
    """Results of the final test.

    Attributes:
        steps: Means over the tasks of all test clients, with intervals, by adaptation step.
        clients: The same for each test client.
    """

    steps: tuple[StepResult, ...]
    clients: Mapping[int, tuple[StepResult, ...]]


def final_test(config: Config, way: Way, state: Tensors) -> Tested:
    """Evaluate a trained state on the test clients.

    Raises:
        RunError: If no test client could be evaluated.
    """
    sums, steps = way.test(state, "test"), config.evaluation.steps
    measures = way.learner.evaluation_measures
    return Tested(
        merge(steps, sums.values(), measures, config.test_clients),
        {client: merge(steps, [one], measures) for client, one in sums.items()},
    )


EXAMPLES = "examples.safetensors"
MOST = 4
GRID = 101
"""Points of a fitted curve."""


def write_examples(folder: RunFolder, config: Config, learner: Learner, state: Tensors) -> None:
    """Write a task of each of the first test clients, with predictions for its query set.

    These are other tasks than those of the test. Tensors of example i are ``i.support_x [S, *input]``,
    ``i.support_y``, ``i.query_x [Q, *input]``, ``i.query_y``, and ``i.before`` and ``i.after``:
    probabilities ``[Q, ..., outputs]``, or the values ``[Q, outputs]`` of a regression. A regression on
    one input also has ``i.grid_x [G, 1]`` with the curves ``i.grid_before`` and ``i.grid_after``. The
    metadata's ``about`` is a JSON object: the ``kind`` of the tasks, the adaptation ``steps`` of
    "after", the ``clients``, and for text the ``characters`` by token.

    Raises:
        OSError: If the file cannot be written.
    """
    clients, kind = example_clients(learner), _kind(learner.algorithm.objective)
    if not clients or kind is None:
        return
    tensors: Tensors = {}
    for index, client in enumerate(clients):
        with one_thread():  # as everywhere in a run: other threads, other bits
            drawn = _example(learner, state_of(config, state, client), client)
        tensors |= {f"{index}.{key}": value for key, value in drawn.items()}
    characters = getattr(learner.family, "characters", None)
    about = {
        "kind": kind,
        "steps": config.evaluation.steps[-1],
        "clients": list(clients),
        "characters": characters if isinstance(characters, str) else None,
    }
    # One entry, as the format has no fixed order of several: a run must be the same bytes each time.
    metadata = {"about": to_json(about)}
    # Labels of tasks of equal shape are views of one tensor, which the format refuses.
    data = save({key: value.clone().contiguous() for key, value in tensors.items()}, metadata)
    write_atomically(folder.path / EXAMPLES, data)


def example_clients(learner: Learner) -> list[int]:
    """Return the first test clients, whose tasks are shown; none if their data are not here."""
    clients = learner.workload.population.clients("test")[:MOST]
    return list(clients) if learner.has_data else []


def example_task(learner: Learner, client: int) -> TaskBatch:
    """Draw the task of a test client that is shown, which is not part of the test."""
    rng = stream(learner.workload.seed, "example", client)
    return learner.family.sample(client, 1, rng).to(learner.dtype, learner.device)


def state_of(config: Config, state: Tensors, client: int) -> Tensors:
    """Return the state with which a client is tested, of those of a run with one for each client."""
    if not model_per_client(config):
        return state
    models = len(next(iter(state.values())))
    return {key: value[model_for(client, models)] for key, value in state.items()}


def _example(learner: Learner, state: Tensors, client: int) -> Tensors:
    task = example_task(learner, client)
    found = {
        f"{half}_{key}": _real(examples, examples[key])
        for half, examples in (("support", task.support), ("query", task.query))
        for key in ("x", "y")
    }
    grid = _grid(learner, task)
    steps = sorted({0, learner.workload.evaluation_steps[-1]})
    rows = expand_state(place(state, learner.device), 1)
    path = learner.algorithm.trajectory(rows, task.support, steps)
    for step, adapted in path:
        with torch.no_grad():
            for name, asked in (("", task.query), ("grid_", grid)):
                if asked is not None:
                    said = _real(asked, learner.algorithm.predict(rows, adapted, asked))
                    for when in ["before"] * (step == 0) + ["after"] * (step == steps[-1]):
                        found[name + when] = _readable(learner, said)
    found |= {"grid_x": grid["x"][0]} if grid is not None else {}
    return place(found, CPU)


def _kind(objective: Objective) -> str | None:
    """Return how the report draws tasks; None: not at all."""
    if objective.labels:
        return "classification"
    return "regression" if objective.numbers else None


def _real(examples: Examples, values: Tensor) -> Tensor:
    """Return one task's values ``[1, B, ...]`` without the task axis and padding."""
    return values[0][examples[MASK][0]] if MASK in examples else values[0]


def _grid(learner: Learner, task: TaskBatch) -> Examples | None:
    objective = learner.algorithm.objective
    if objective.labels or objective.spec.input_shape != (1,):
        return None
    seen = task.all_examples["x"]
    points = torch.linspace(float(seen.min()), float(seen.max()), GRID, dtype=seen.dtype)
    return {"x": points.view(1, -1, 1).to(seen.device)}


def _readable(learner: Learner, prediction: Tensor) -> Tensor:
    return prediction.softmax(-1) if learner.algorithm.objective.labels else prediction
