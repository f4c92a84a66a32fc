"""Base class of families of handwritten digits: clients differ in orientation and label coding."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedmeta.errors import ConfigError
from fedmeta.options import Options
from fedmeta.tasks.augmentation import AugmentationOptions, augment
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.episodes import ClassImages, LabelOptions, gather
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.image_files import ImageStyle
from fedmeta.tasks.partition import PartitionOptions, task_shares
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream
from fedmeta.tasks.sequences import OrderOptions, arrange

CLASSES = 10


class RotatedDigitsOptions(LabelOptions, OrderOptions, PartitionOptions, AugmentationOptions):
    """Options of `RotatedDigits`: those of episodes, labels, order, partition and augmentation."""


class RotatedDigits:
    """N-way K-shot tasks over handwritten digits, with standardised pixels.

    Clients differ in:

    - *Images.* The images of each digit are shuffled and dealt in turn, so every client has nearly the
      same number of each digit, and each image has one owner.
    - *Orientation.* Each of ``n`` clients rotates its images (bilinear, about the centre) by its own one
      of ``n`` evenly spaced angles, so no training client has the orientation of a held-out one.
    - *Label coding.* A client's code is a random ring of the ten digits. A task draws its classes and
      numbers them along the ring from a random start. A digit thus has no fixed label, across clients
      (rings differ) or within one (starts differ), so a network cannot memorise training clients
      instead of learning to adapt (Yin et al. 2020, arXiv:1912.03820).

    A `partition` other than ``natural`` deals whole tasks among training clients, as the images of a
    task belong together: each task is from a client drawn uniformly (``iid``), or by shares that differ
    between clients (``dirichlet``). With ``labels = "global"`` the label is the digit in any
    orientation.

    Subclasses load the images.

    Attributes:
        name: Name of the subclass's random streams.

    Raises:
        ConfigError: If there are too many clients for the ways, shots and queries.
    """

    Options: ClassVar[type[Options]] = RotatedDigitsOptions
    image_style: ClassVar[ImageStyle]
    name: ClassVar[str]

    def __init__(self, options: Any, population: Population, seed: int) -> None:
        self.options: RotatedDigitsOptions = options
        self.population = population
        upright, self.digits = self.load()
        images = upright.clone()
        rng = stream(seed, self.name)
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
        self.shares = task_shares(population.train, options, stream(seed, self.name, "deal"))
        self.image_shape = tuple(images.shape[1:])
        self.pool = (images - self.image_style.mean) / self.image_style.deviation
        self.spec = spec_of(options, self.image_shape)

    @classmethod
    def load(cls) -> tuple[Tensor, NDArray[np.int64]]:
        """Return all images upright, ``[images, 1, H, W]`` in [0, 1] with ink 1, and their digits."""
        raise NotImplementedError

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`; x ``[T, ways * shots, *input_shape]``, see `OrderOptions`."""
        held_out = self.population.split_of(client) != "train"
        shape = self.options.shape(held_out)
        if held_out or self.shares is None:
            drawn = self.clients[client].draw(count, shape, rng, coded=True)
        else:
            owners = rng.choice(len(self.shares), count, p=self.shares[client]).tolist()
            tasks = [self.clients[owner].draw(1, shape, rng, coded=True) for owner in owners]
            drawn = np.concatenate(tasks)
        labels = self.digits if self.options.global_labels(held_out) else None
        batch = gather(self.pool, drawn, shape[1], labels)
        if not held_out:
            batch = augment(batch, self.options, rng, self.image_shape, self.image_style)
        return arrange(batch, self.options, rng)

    def _check(self, client: int) -> None:
        held_out = self.population.split_of(client) != "train"
        shape = self.options.shape(held_out)
        if self.options.outputs > CLASSES:
            raise ConfigError(f"data.ways = {self.options.outputs}, but there are {CLASSES} digits")
        self.clients[client].check(f"client {client}", shape, "test_" if held_out else "")


def spec_of(options: RotatedDigitsOptions, input_shape: tuple[int, ...]) -> TaskSpec:
    """Return the shape of tasks with images of `input_shape`."""
    return TaskSpec(
        options.objective,
        input_shape,
        options.head(CLASSES),
        own_labels=options.labels == "task",
        new_classes=options.labels == "global",
        instances=options.instances if options.order == "sequence" else 0,
    )


def deal_by_class(
    classes: NDArray[np.int64], clients: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return each item's owner; clients' counts differ by at most one, in total and per class."""
    order = np.concatenate([rng.permutation(np.flatnonzero(classes == c)) for c in np.unique(classes)])
    owner = np.empty(len(classes), dtype=np.int64)
    owner[order] = np.arange(len(order)) % clients
    return owner


def turn(images: Tensor, degrees: float) -> Tensor:
    """Rotate ``images [B, 1, H, W]`` counter-clockwise about their centre (bilinear, zero padding)."""
    angle = np.deg2rad(degrees)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    back = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]])
    grid = affine_grid(back.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)
