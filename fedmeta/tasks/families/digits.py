"""Handwritten digits on turned pages: few-shot classification on real data without a download."""

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedmeta.errors import ConfigError
from fedmeta.options import Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.episodes import ClassImages, LabelOptions, gather
from fedmeta.tasks.family import Population, TaskSpec
from fedmeta.tasks.image_files import ImageStyle
from fedmeta.tasks.partition import PartitionOptions, task_shares
from fedmeta.tasks.seeding import stream

CLASSES = 10
LEVELS = 16.0
SIDE = 8
# Mean and standard deviation of a pixel in [0, 1]: constants, so that no client's data sets the scale.
MEAN, DEVIATION = 0.305, 0.376


class DigitsOptions(LabelOptions, PartitionOptions):
    """Options of `Digits`: those of episodes, labels and partition, and the layout of an image.

    Attributes:
        layout: ``flat`` gives inputs of shape ``(64,)``, ``image`` of shape ``(1, 8, 8)``.
    """

    layout: Literal["flat", "image"] = "flat"


class Digits:
    """N-way K-shot over the 1,797 digits of scikit-learn, standardised pixels.

    What makes a client a client:

    - *Images.* The images of each digit are shuffled and dealt in turn, so that every client has
      nearly the same number of each digit, and no image has two owners.
    - *Orientation.* Client images are turned (bilinear, about the centre) by the client's own one of
      ``n`` evenly spaced angles, for ``n`` clients: a held-out orientation occurs in no training client.
    - *Label coding.* A client's code is a random ring of the ten digits. A task draws its classes and
      numbers them along the ring from a random start. A digit therefore has no label of its own: not
      over clients, since rings differ, nor within one, since starts do, so that a network cannot learn
      training clients by heart instead of learning to adapt (Yin et al. 2020, arXiv:1912.03820).

    Another `partition` than ``natural`` deals training clients' tasks, as the images of a task belong
    together: each is of one of them drawn at random (``iid``), or by shares that differ from client to
    client (``dirichlet``). ``labels = "global"``: the digit, however it is turned.

    Raises:
        ConfigError: If the clients are too many for the ways, shots and queries.
    """

    Options: ClassVar[type[Options]] = DigitsOptions
    image_style: ClassVar[ImageStyle] = ImageStyle(mean=MEAN, deviation=DEVIATION)

    def __init__(self, options: DigitsOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        upright, self.digits = _load()
        images = upright.clone()
        rng = stream(seed, "digits")
        owner = deal_by_class(self.digits, len(population), rng)
        places = rng.permutation(len(population))
        self.angles = 360.0 * places / len(population)
        self.codes = rng.permuted(np.tile(np.arange(CLASSES), (len(population), 1)), axis=1)
        self.clients: list[ClassImages] = []
        for client, angle in enumerate(self.angles.tolist()):
            mine = np.flatnonzero(owner == client)
            images[mine] = turn(images[mine], angle)
            classes = [mine[self.digits[mine] == digit] for digit in self.codes[client]]
            self.clients.append(ClassImages(classes))
            self._check(client)
        self.shares = task_shares(population.train, options, stream(seed, "digits", "deal"))
        images = (images - MEAN) / DEVIATION
        self.pool = images.flatten(1) if options.layout == "flat" else images
        self.spec = TaskSpec(
            "classification",
            tuple(self.pool.shape[1:]),
            options.head(CLASSES),
            own_labels=options.labels == "task",
            new_classes=options.labels == "global",
        )

    @staticmethod
    def digest(options: DigitsOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of all images and their digits, as scikit-learn gives them."""
        images, digits = _load()
        return hashlib.sha256(images.numpy().tobytes() + digits.tobytes()).hexdigest()

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`; x ``[T, ways * shots, *input_shape]``, grouped by class."""
        held_out = self.population.split_of(client) != "train"
        shape = self.options.shape(held_out)
        if held_out or self.shares is None:
            drawn = self.clients[client].draw(count, shape, rng, coded=True)
        else:
            owners = rng.choice(len(self.shares), count, p=self.shares[client]).tolist()
            tasks = [self.clients[owner].draw(1, shape, rng, coded=True) for owner in owners]
            drawn = np.concatenate(tasks)
        return gather(
            self.pool, drawn, shape[1], self.digits if self.options.global_labels(held_out) else None
        )

    def _check(self, client: int) -> None:
        held_out = self.population.split_of(client) != "train"
        shape = self.options.shape(held_out)
        if self.options.outputs > CLASSES:
            raise ConfigError(f"data.ways = {self.options.outputs}, but there are {CLASSES} digits")
        self.clients[client].check(f"client {client}", shape, "test_" if held_out else "")


def deal_by_class(
    classes: NDArray[np.int64], clients: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return each item's owner; clients' counts differ by at most one, in all and by class."""
    order = np.concatenate([rng.permutation(np.flatnonzero(classes == c)) for c in np.unique(classes)])
    owner = np.empty(len(classes), dtype=np.int64)
    owner[order] = np.arange(len(order)) % clients
    return owner


def turn(images: Tensor, degrees: float) -> Tensor:
    """Turn ``images [B, 1, H, W]`` counter-clockwise about their centre, bilinear, ink-free outside."""
    angle = np.deg2rad(degrees)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    back = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]])
    grid = affine_grid(back.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


@cache
def _load() -> tuple[Tensor, NDArray[np.int64]]:
    # As `sklearn.datasets.load_digits` reads it, whose import takes longer than the rest of fedmeta.
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        data = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = (data[:, :-1] / LEVELS).reshape(-1, 1, SIDE, SIDE)
    return torch.from_numpy(images), data[:, -1].astype(np.int64)
