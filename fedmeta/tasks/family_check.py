"""Checks the tasks of a user's family before learning sees them."""

import logging
import time
from itertools import zip_longest
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedmeta.errors import ConfigError, DataError
from fedmeta.options import Options
from fedmeta.tasks.batch import MASK, Examples, TaskBatch
from fedmeta.tasks.family import TaskFamily, TaskSpec
from fedmeta.tasks.objective import Objective, build_objective, dtype_name, within
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

log = logging.getLogger(__name__)

CHECKED = 32
"""Clients of each split that are checked before a run."""
CHECKED_SECONDS = 0.5
"""Time after which no further client is checked, once ten were."""

Shapes = dict[tuple[str, ...], int]
"""An example client for each split and shapes of tasks."""


class CheckedFamily:
    """A user's family whose every batch is checked.

    Args:
        family: The user's family.
        population: Its clients.
    """

    Options: ClassVar[type[Options]] = Options

    def __init__(self, family: TaskFamily, population: Population) -> None:
        self.family = family
        self.spec = family.spec
        self.population = population

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw tasks, labels as int64.

        Raises:
            DataError: If they do not fit the family's `spec`; the message names the client.
        """
        return checked(self.spec, self.family.sample(client, count, rng), count, client)


def checked(spec: TaskSpec, tasks: TaskBatch, count: int, client: int) -> TaskBatch:
    """Return tasks with int64 labels and tokens.

    Args:
        spec: The family's declared shape of tasks.
        tasks: The tasks that it drew.
        count: How many tasks were requested.
        client: The client, for messages.

    Raises:
        DataError: If shapes, dtypes or values do not fit `spec`.
    """
    objective = build_objective(spec)
    try:
        if isinstance(tasks, tuple | list):
            tasks = TaskBatch(*tasks)
        if not isinstance(tasks, TaskBatch):
            raise ValueError(f"sample returned a {type(tasks).__name__}, not a TaskBatch")
        return TaskBatch(
            _half(objective, "support", tasks.support, count),
            _half(objective, "query", tasks.query, count),
        )
    except KeyError as missing:
        raise DataError(f"the tasks of client {client} have no {missing} in a half") from None
    except ValueError as error:
        raise DataError(f"the tasks of client {client}: {error}") from None


def _half(objective: Objective, half: str, examples: Examples, count: int) -> Examples:
    checked = {
        key: _tensor(objective.spec, value, count, f"{half}_{key}") for key, value in examples.items()
    }
    if MASK in checked:
        _require_mask(checked, half)
    return {key: _finite(v, f"{half}_{key}") for key, v in objective.check(checked, half).items()}


def _tensor(spec: TaskSpec, values: object, count: int, name: str) -> Tensor:
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} is a {type(values).__name__}, not a tensor")
    if name.endswith("_x"):
        return _inputs(spec, values, count, name)
    if list(values.shape[:1]) != [count]:
        raise ValueError(f"{name} has shape {list(values.shape)}, not {_listed([count, '...'])}")
    return values


def _require_mask(examples: Examples, half: str) -> None:
    mask, shape = examples[MASK], next(v for k, v in examples.items() if k != MASK).shape[:2]
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"{half}_{MASK} is {dtype_name(mask)} {list(mask.shape)}, but must be bool {list(shape)}"
        )
    if not bool(mask.any(1).all()):
        raise ValueError(f"{half}_{MASK} leaves a task without any example")


def _inputs(spec: TaskSpec, x: Tensor, count: int, name: str) -> Tensor:
    wanted = [count, "examples", *spec.input_shape]
    if list(x.shape[:1]) != [count] or x.shape[2:] != spec.input_shape:
        raise ValueError(f"{name} has shape {list(x.shape)}, not {_listed(wanted)}")
    if not x.shape[1]:
        raise ValueError(f"{name} has no examples")
    if spec.vocabulary:
        if x.is_floating_point() or x.dtype == torch.bool:
            raise ValueError(f"{name} is {dtype_name(x)}, but tokens must be integers")
        return within(x.long(), spec.vocabulary, name, "tokens")
    if not x.is_floating_point():
        raise ValueError(f"{name} is {dtype_name(x)}: scale it to real numbers, as in x / 255")
    if spec.graph is not None and not spec.graph.holds(x):
        raise ValueError(f"{name} holds numbers that spec.graph does not allow")
    return _finite(x, name)


def _finite(values: Tensor, name: str) -> Tensor:
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity")
    return values


def check_family(family: TaskFamily, seed: int) -> None:
    """Draw a task of each of many clients, evenly spread over each split, and check it before a run.

    Args:
        family: A user's family, as `build_family` returned it.
        seed: The run's seed.

    Raises:
        ConfigError: If a client's tasks do not fit the family's `spec`, or no client can draw any.
    """
    ended = time.monotonic() + CHECKED_SECONDS
    shapes: Shapes = {}
    failed: dict[int, str] = {}
    for tried, client in enumerate(_spread(family.population)):
        if tried >= 10 and time.monotonic() > ended:
            break
        try:
            tasks = family.sample(client, 1, stream(seed, "check", client))
        except DataError as error:
            raise ConfigError(f"task family: {error}") from None
        except Exception as error:
            # A client without enough data also fails in the run, by itself.
            failed[client] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        split = family.population.split_of(client)
        shape = (f"{name} {list(tensor.shape)}" for name, tensor in tasks.tensors())
        shapes.setdefault((split, *shape), client)
    _report(shapes, failed)


def _report(shapes: Shapes, failed: dict[int, str]) -> None:
    if failed and not shapes:
        client, why = next(iter(failed.items()))
        raise ConfigError(f"task family: no client can draw a task (client {client}: {why})")
    if failed:
        client, why = next(iter(failed.items()))
        others = f", nor can {len(failed) - 1} others" if len(failed) > 1 else ""
        log.warning("client %d cannot draw tasks (%s)%s", client, why, others)
    for split in ("train", "validation", "test"):
        kinds = [client for (of, *_), client in shapes.items() if of == split]
        if len(kinds) > 1:
            log.warning(
                "tasks of %s clients %d and %d differ in shape: such clients are computed one by one",
                split,
                *kinds[:2],
            )


def _spread(population: Population) -> list[int]:
    """Return clients evenly spread over each split, alternating between splits."""
    splits = [population.clients(split) for split in ("train", "validation", "test")]
    picked = [
        np.unique(np.linspace(ids.start, ids.stop - 1, min(len(ids), CHECKED)).astype(int)).tolist()
        for ids in splits
        if len(ids)
    ]
    return [client for turn in zip_longest(*picked) for client in turn if client is not None]


def _listed(shape: list[object]) -> str:
    return "[" + ", ".join(str(side) for side in shape) + "]"
