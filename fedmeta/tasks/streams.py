"""Streams: tasks of a client one after another, whose examples arrive in a random order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from fedmeta.errors import ConfigError
from fedmeta.tasks.batch import MASK, Examples, TaskBatch
from fedmeta.tasks.family import TaskFamily
from fedmeta.tasks.seeding import stream

Drift = Literal["tasks", "classes", "slow"]
Segment = TaskBatch
"""A stretch of T streams in which nothing changes: the support examples arrive, in their order and
without padding; the query examples test what is known of the segment and are never learned from."""


@dataclass(frozen=True)
class StreamShape:
    """How streams are made.

    Attributes:
        segments: Segments of a stream.
        drift: What changes from one segment to the next. ``tasks``: everything, as it is another task of
            the client, with its own label coding; ``classes``: the classes, which are those of a single
            task, dealt to the segments; ``slow``: the task moves by one of equal steps, see a family's
            ``drifting``.
    """

    segments: int
    drift: Drift


def draw_streams(
    family: TaskFamily, client: int, count: int, shape: StreamShape, seed: int
) -> list[Segment]:
    """Draw the segments of `count` streams of a client.

    Stream i depends only on the seed, the client and i. Segments of unequal size are cut to the shortest
    of all streams, so that one batch holds them.

    Raises:
        ConfigError: If the family's tasks cannot drift in this way.
    """
    drawn = []
    for place in range(count):
        rng = stream(seed, "stream", client, place)
        tasks = _segments(family, client, shape, rng)
        drawn.append([_shuffled(task, rng) for task in tasks])
    shortest = min(_length(task.support) for segments in drawn for task in segments)
    return [
        TaskBatch.concat([_cut(task, shortest) for task in parts]) for parts in zip(*drawn, strict=True)
    ]


def _segments(
    family: TaskFamily, client: int, shape: StreamShape, rng: np.random.Generator
) -> list[TaskBatch]:
    """Return a stream's segments as tasks ``[1, ...]``."""
    if shape.drift == "classes":
        return _dealt(family.sample(client, 1, rng), shape.segments)
    draw: Any = family.sample
    if shape.drift == "slow":
        draw = getattr(family, "drifting", None)
        if draw is None:
            raise ConfigError(
                "evaluation.stream.drift = 'slow': only tasks of 'sinusoid' can move slowly; choose "
                "'tasks'"
            )
    tasks = draw(client, shape.segments, rng)
    return [tasks[place : place + 1] for place in range(shape.segments)]


def _dealt(task: TaskBatch, segments: int) -> list[TaskBatch]:
    """Deal the classes of one task to segments, in the order of their labels."""
    labels = task.support.get("y")
    padded = MASK in task.support or MASK in task.query
    if labels is None or labels.is_floating_point() or labels.dim() != 2 or padded:
        raise ConfigError(
            "evaluation.stream.drift = 'classes' needs tasks of equal size with a class per example; "
            "choose 'tasks'"
        )
    ways = int(labels.max()) + 1
    if ways % segments:
        fitting = ", ".join(str(n) for n in range(2, ways + 1) if ways % n == 0)
        raise ConfigError(
            f"evaluation.stream.segments = {segments}: the {ways} classes of a task cannot be dealt "
            f"to them evenly; choose from: {fitting}"
        )
    each = ways // segments
    groups = [range(first, first + each) for first in range(0, ways, each)]
    return [TaskBatch(_of(task.support, group), _of(task.query, group)) for group in groups]


def _of(examples: Examples, labels: Sequence[int]) -> Examples:
    kept = torch.isin(examples["y"][0], torch.tensor(labels))
    return {key: value[:, kept] for key, value in examples.items()}


def _shuffled(task: TaskBatch, rng: np.random.Generator) -> TaskBatch:
    """Return a task whose support is in a random order, without padding."""
    support = dict(task.support)
    mask = support.pop(MASK, None)
    rows = np.arange(_length(support)) if mask is None else mask[0].nonzero().squeeze(1).numpy()
    order = torch.from_numpy(rng.permutation(rows))
    return TaskBatch({key: value[:, order] for key, value in support.items()}, task.query)


def _cut(task: TaskBatch, size: int) -> TaskBatch:
    return TaskBatch({key: value[:, :size] for key, value in task.support.items()}, task.query)


def _length(examples: Examples) -> int:
    return int(next(iter(examples.values())).shape[1])
