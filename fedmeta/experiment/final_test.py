"""Tests what a run learned on its test clients, and writes a few of their tasks for a report."""

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
from fedmeta.learning import Tensors, expand_state
from fedmeta.tasks import TaskBatch, stream
from fedmeta.training import Way, model_for


@dataclass(frozen=True)
class Tested:
    """What the final test came to.

    Attributes:
        steps: Means over the tasks of all test clients, with intervals, by adaptation step.
        clients: The same for each test client alone.
    """

    steps: tuple[StepResult, ...]
    clients: Mapping[int, tuple[StepResult, ...]]


def final_test(config: Config, way: Way, state: Tensors) -> Tested:
    """Evaluate a trained state on the test clients.

    Raises:
        RunError: If no test client could be evaluated.
    """
    sums, steps = way.test(state, "test"), config.evaluation.steps
    return Tested(
        merge(steps, sums.values(), config.test_clients),
        {client: merge(steps, [one]) for client, one in sums.items()},
    )


EXAMPLES = "examples.safetensors"
MOST = 4
GRID = 101
"""Points at which a fitted curve is drawn."""


def write_examples(folder: RunFolder, config: Config, learner: Learner, state: Tensors) -> None:
    """Write one task each of the first test clients, and the predictions for its query set.

    They are other tasks than those of the test. Tensors of example i are ``i.support_x [S, *input]``,
    ``i.support_y``, ``i.query_x [Q, *input]``, ``i.query_y``, and ``i.before`` and ``i.after``:
    probabilities ``[Q, ..., outputs]``, or the values ``[Q, outputs]`` of a regression. A regression on
    one input also has ``i.grid_x [G, 1]`` with the curves ``i.grid_before`` and ``i.grid_after``. The
    metadata's ``about`` is a JSON object: the ``kind`` of the tasks, the ``steps`` behind "after", the
    ``clients``, and of text the ``characters`` by token.

    Raises:
        OSError: If the file cannot be written.
    """
    clients = learner.workload.population.clients("test")[:MOST]
    if not clients or not learner.has_data:
        return
    tensors: Tensors = {}
    for index, client in enumerate(clients):
        own = state
        if model_per_client(config):
            models = len(next(iter(state.values())))
            own = {key: value[model_for(client, models)] for key, value in state.items()}
        tensors |= {f"{index}.{key}": value for key, value in _example(learner, own, client).items()}
    characters = getattr(learner.family, "characters", None)
    about = {
        "kind": learner.family.spec.kind,
        "steps": config.evaluation.steps[-1],
        "clients": list(clients),
        "characters": characters if isinstance(characters, str) else None,
    }
    # One entry, since the format keeps several in no fixed order: a run is the same bytes each time.
    metadata = {"about": to_json(about)}
    # Labels of equally shaped tasks are views of one tensor, which the format refuses.
    data = save({key: value.clone().contiguous() for key, value in tensors.items()}, metadata)
    write_atomically(folder.path / EXAMPLES, data)


def _example(learner: Learner, state: Tensors, client: int) -> Tensors:
    rng = stream(learner.workload.seed, "example", client)
    task = learner.family.sample(client, 1, rng).to(learner.dtype)
    found = {
        "support_x": task.support_x[0],
        "support_y": task.support_y[0],
        "query_x": task.query_x[0],
        "query_y": task.query_y[0],
    }
    grid = _grid(learner, task)
    steps = sorted({0, learner.workload.evaluation_steps[-1]})
    rows = expand_state(state, 1)
    path = learner.algorithm.trajectory(rows, task.support_x, task.support_y, steps)
    for step, adapted in path:
        with torch.no_grad():
            for name, x in (("", task.query_x), ("grid_", grid)):
                if x is not None:
                    said = learner.algorithm.predict(rows, adapted, x)[0]
                    for when in ["before"] * (step == 0) + ["after"] * (step == steps[-1]):
                        found[name + when] = _readable(learner, said)
    return found | ({"grid_x": grid[0]} if grid is not None else {})


def _grid(learner: Learner, task: TaskBatch) -> Tensor | None:
    spec = learner.family.spec
    if spec.kind != "regression" or spec.input_shape != (1,):
        return None
    seen = torch.cat([task.support_x, task.query_x], dim=1)
    return torch.linspace(float(seen.min()), float(seen.max()), GRID, dtype=seen.dtype).view(1, -1, 1)


def _readable(learner: Learner, prediction: Tensor) -> Tensor:
    return prediction.softmax(-1) if learner.family.spec.kind == "classification" else prediction
