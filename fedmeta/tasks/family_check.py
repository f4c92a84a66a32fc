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
from fedmeta.tasks.family import Population, TaskBatch, TaskFamily, TaskSpec
from fedmeta.tasks.seeding import stream

log = logging.getLogger(__name__)

CHECKED = 32
"""Clients of each split that are tried before a run."""
CHECKED_SECONDS = 0.5
"""Time after which no further one is, once ten were."""
IGNORED = -100
"""What PyTorch's losses leave out (``ignore_index``)."""

Shapes = dict[tuple[str, torch.Size, torch.Size], int]
"""A client by the split and the shapes of its support and query inputs."""


class CheckedFamily:
    """A user's family whose every batch is checked.

    Args:
        family: The user's.
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
            DataError: If they are not what the family's `spec` says; the client is named.
        """
        return checked(self.spec, self.family.sample(client, count, rng), count, client)


def checked(spec: TaskSpec, tasks: TaskBatch, count: int, client: int) -> TaskBatch:
    """Return tasks with int64 labels and tokens.

    Args:
        spec: What the family says of its tasks.
        tasks: What it drew.
        count: How many tasks were asked for.
        client: Whose they are.

    Raises:
        DataError: If shapes, dtypes or values do not fit `spec`.
    """
    try:
        sides = [
            _inputs(spec, tasks.support_x, count, "support_x"),
            _targets(spec, tasks.support_y, tasks.support_x, "support_y"),
            _inputs(spec, tasks.query_x, count, "query_x"),
            _targets(spec, tasks.query_y, tasks.query_x, "query_y"),
        ]
    except _WrongError as error:
        raise DataError(f"the tasks of client {client}: {error}") from None
    return TaskBatch(*sides)


class _WrongError(Exception):
    pass


def _inputs(spec: TaskSpec, x: Tensor, count: int, name: str) -> Tensor:
    wanted = [count, "examples", *spec.input_shape]
    if not isinstance(x, Tensor):
        raise _WrongError(f"{name} is a {type(x).__name__}, not a tensor")
    if list(x.shape[:1]) != [count] or x.shape[2:] != spec.input_shape:
        raise _WrongError(f"{name} has the shape {list(x.shape)}, not {_listed(wanted)}")
    if not x.shape[1]:
        raise _WrongError(f"{name} holds no example")
    if spec.vocabulary:
        if x.is_floating_point() or x.dtype == torch.bool:
            raise _WrongError(f"{name} is {_kind(x)}, but tokens must be integers")
        return _within(x.long(), spec.vocabulary, name, "tokens")
    if not x.is_floating_point():
        raise _WrongError(f"{name} is {_kind(x)}: scale it to real numbers, as in x / 255 for images")
    return _finite(x, name)


def _targets(spec: TaskSpec, y: Tensor, x: Tensor, name: str) -> Tensor:
    if not isinstance(y, Tensor):
        raise _WrongError(f"{name} is a {type(y).__name__}, not a tensor")
    if spec.kind == "regression":
        wanted = [*x.shape[:2], spec.outputs]
        if list(y.shape) != wanted:
            raise _WrongError(f"{name} has the shape {list(y.shape)}, not {_listed(wanted)}")
        return _finite(y if y.is_floating_point() else y.float(), name)
    if list(y.shape) == [*x.shape[:2], spec.outputs] and bool((y.sum(-1) == 1).all()):
        raise _WrongError(f"{name} is one-hot: pass the labels' numbers, y.argmax(-1)")
    if y.shape[:2] != x.shape[:2]:
        raise _WrongError(f"{name} has the shape {list(y.shape)}, but its inputs {list(x.shape)}")
    if y.is_floating_point() or y.is_complex():
        raise _WrongError(f"{name} is {_kind(y)}, but labels must be integers")
    return _within(y.long(), spec.outputs, name, "labels")


def _within(values: Tensor, count: int, name: str, what: str) -> Tensor:
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high < count:
        return values
    odd = low if low < 0 else high
    hint = ""
    if odd == IGNORED:
        hint = "; examples that are to be ignored must be left out of the task"
    elif low >= 1 and high == count:
        hint = "; count from 0"
    raise _WrongError(f"{name} holds {odd}, but {what} must be within 0 and {count - 1}{hint}")


def _finite(values: Tensor, name: str) -> Tensor:
    if not bool(values.isfinite().all()):
        raise _WrongError(f"{name} holds NaN or infinity")
    return values


def check_family(family: TaskFamily, seed: int) -> None:
    """Draw a task of each of many clients before a run, evenly spread over each split.

    Args:
        family: A user's family, as `build_family` returned it.
        seed: The run's.

    Raises:
        ConfigError: If a client's tasks are not what the family's `spec` says, or nobody can draw any.
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
            # A client without enough data fails in the run as well, and alone.
            failed[client] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        split = family.population.split_of(client)
        shapes.setdefault((split, tasks.support_x.shape, tasks.query_x.shape), client)
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
        kinds = [client for (of, _, _), client in shapes.items() if of == split]
        if len(kinds) > 1:
            log.warning(
                "tasks of %s clients %d and %d differ in shape: such clients are computed one by one",
                split,
                *kinds[:2],
            )


def _spread(population: Population) -> list[int]:
    """Return clients evenly spread over each split, the splits in turns."""
    splits = [population.clients(split) for split in ("train", "validation", "test")]
    picked = [
        np.unique(np.linspace(ids.start, ids.stop - 1, min(len(ids), CHECKED)).astype(int)).tolist()
        for ids in splits
        if len(ids)
    ]
    return [client for turn in zip_longest(*picked) for client in turn if client is not None]


def _kind(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _listed(shape: list[object]) -> str:
    return "[" + ", ".join(str(side) for side in shape) + "]"
