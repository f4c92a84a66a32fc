"""N-way K-shot episodes over images: the sampler of all image families."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.seeding import random_order

Indices = NDArray[np.int64]


class EpisodeOptions(Options):
    """Shape of the episodes; the ``test_`` keys apply to validation and test clients.

    Attributes:
        ways: Classes per task.
        shots: Support examples per class.
        queries: Query examples per class.
        test_ways: None: as in training. More ways suit algorithms without a head; with a head, the
            additional outputs stay untrained.
        test_shots: None: as in training.
        test_queries: None: as in training.
    """

    ways: int = Field(default=5, ge=2)
    shots: Annotated[int, Key(arm="training")] = Field(default=1, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=1, ge=1)
    test_ways: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=2)
    test_shots: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)
    test_queries: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)

    @property
    def outputs(self) -> int:
        """Number of labels over all clients' tasks, which is the size of a head."""
        return max(self.ways, self.test_ways or self.ways)

    @property
    def instances(self) -> int:
        """Images of each class in every client's tasks: in those with the fewest."""
        return min(sum(self.shape(held_out)[1:]) for held_out in (False, True))

    def shape(self, held_out: bool) -> tuple[int, int, int]:
        """Return ways, shots and queries of a training or held-out client."""
        if not held_out:
            return self.ways, self.shots, self.queries
        return (
            self.test_ways or self.ways,
            self.test_shots or self.shots,
            self.test_queries or self.queries,
        )


class LabelOptions(EpisodeOptions):
    """Shape of the episodes, and the meaning of training labels.

    Attributes:
        labels: ``task``: labels ``0 .. ways - 1``, assigned anew in every task; ``global``: the class's
            number among all training classes, as supervised training needs. The examples drawn are the
            same; tasks of held-out clients always have ``task`` labels.
    """

    labels: Annotated[Literal["task", "global"], Key(arm="any")] = "task"

    def global_labels(self, held_out: bool) -> bool:
        """Return whether the tasks of a training or held-out client have global labels."""
        return self.labels == "global" and not held_out

    def head(self, classes: int) -> int:
        """Return how many outputs a head needs if there are `classes` global classes."""
        return max(self.outputs, classes) if self.labels == "global" else self.outputs


class ClassImages:
    """One client's images by class, as indices into a pool that all clients share.

    Args:
        classes: For each class the indices of its images in the pool.
    """

    def __init__(self, classes: Sequence[Indices]) -> None:
        self.sizes = np.array([len(images) for images in classes], dtype=np.int64)
        self.smallest = min(self.sizes.tolist(), default=0)
        self.ragged = bool(len(classes)) and self.smallest < int(self.sizes.max())
        self.table = np.zeros((len(classes), int(self.sizes.max(initial=0))), dtype=np.int64)
        for row, images in zip(self.table, classes, strict=True):
            row[: len(images)] = images
        # Exceeds every uniform draw where a row of the table has no image, so that it is never drawn.
        absent = np.arange(self.table.shape[1]) >= self.sizes[:, None]
        self._floor = np.where(absent, 2.0, 0.0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.sizes)

    def check(self, who: str, shape: tuple[int, int, int], prefix: str = "") -> None:
        """Check that this client's images suffice for the episodes.

        Raises:
            ConfigError: If it has fewer classes than ways, or a class with fewer images than shots plus
                queries.
        """
        ways, shots, queries = shape
        if ways > len(self):
            raise ConfigError(
                f"data.{prefix}ways = {ways}, but {who} has {len(self)} classes; "
                f"set it to {len(self)} or less, or use fewer clients"
            )
        if shots + queries > self.smallest:
            fewer_shots = max(min(shots, self.smallest - queries), 1)
            fewer_queries = min(queries, self.smallest - fewer_shots)
            fitting = (
                f"data.{prefix}shots = {fewer_shots} and data.{prefix}queries = {fewer_queries} fit, or "
            )
            if not self.smallest:
                raise ConfigError(f"{who} has no image of one of its classes; use fewer clients")
            raise ConfigError(
                f"data.{prefix}shots + data.{prefix}queries = {shots} + {queries}, but "
                f"{who} has a class of {self.smallest} images; "
                f"{fitting if fewer_queries > 0 else ''}use fewer clients"
            )

    def draw(
        self, count: int, shape: tuple[int, int, int], rng: np.random.Generator, coded: bool = False
    ) -> Indices:
        """Draw episodes: pool indices ``[count, ways, shots + queries]``, none twice in an episode.

        A class's index along the ways is its label: random in every task, or (`coded`) given by the
        client's code, which is the cyclic order of its classes from a random start.
        """
        ways, shots, queries = shape
        # Ranks of uniform draws sample without replacement for all tasks at once.
        chosen = random_order(rng.random((count, len(self)), dtype=np.float32))[:, :ways]
        if coded:
            chosen.sort(axis=1)
            # A loop over tasks is five times faster for the few that a client draws in a round.
            starts = [int(rng.integers(ways)) for _ in range(count)]
            rings = zip(chosen.tolist(), starts, strict=True)
            chosen = np.array([ring[start:] + ring[:start] for ring, start in rings])
        keys = rng.random((count, ways, self.table.shape[1]), dtype=np.float32)
        if self.ragged:
            keys = np.maximum(keys, self._floor.take(chosen, axis=0))
        images = random_order(keys)[:, :, : shots + queries]
        # Flat indices take half the time of rows and columns, which matters for small tasks.
        drawn: Indices = self.table.take(images + (chosen * self.table.shape[1])[:, :, None])
        return drawn


def gather(pool: Tensor, drawn: Indices, shots: int, classes: Indices | None = None) -> TaskBatch:
    """Turn drawn indices into tasks; examples are grouped by class, labels ``0 .. ways - 1``.

    Args:
        pool: ``[images, *input_shape]``, float32, or uint8 to be scaled to [0, 1].
        drawn: ``[T, ways, shots + queries]``.
        shots: Support images among the drawn images of a class.
        classes: ``[images]``, the global class of each image as its label; None: labels as above.
    """
    count, ways = drawn.shape[:2]
    # NumPy takes a fifth of torch's time for few rows, and each client needs only a few.
    rows = pool.numpy()
    sides = []
    for part in (drawn[:, :, :shots], drawn[:, :, shots:]):
        x = torch.from_numpy(rows.take(part, axis=0).reshape(count, -1, *rows.shape[1:]))
        sides += [x if x.is_floating_point() else x.float().div_(255.0)]
        if classes is None:
            sides += [_labels(count, ways, part.shape[2])]
        else:
            sides += [torch.from_numpy(classes.take(part).reshape(count, -1))]
    return TaskBatch(*sides)


@lru_cache(maxsize=64)
def _labels(count: int, ways: int, each: int) -> Tensor:
    return torch.arange(ways).repeat_interleave(each).expand(count, -1)
