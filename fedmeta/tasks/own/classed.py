"""Base class of families of a user's labelled examples: deals them to clients and draws episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.options import Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.episodes import ClassImages, LabelOptions, gather
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.own.clients import choose
from fedmeta.tasks.own.folders import Listing
from fedmeta.tasks.partition import PartitionOptions, Receivers, deal
from fedmeta.tasks.population import Population, Split
from fedmeta.tasks.seeding import stream

Indices = NDArray[np.int64]


class ClassedOptions(LabelOptions, PartitionOptions):
    """Options of `Classed`: those of episodes, labels and partition, and where the examples are.

    Attributes:
        path: The folder, ``PATH/<client>/<class>/file`` or ``PATH/<class>/file``, in the current folder
            or in ``FEDMETA_DATA``.
        skip: Clients, classes and files to leave out, as paths within the folder, such as ``"anna/ka"``.
        test_classes: Fraction of the classes for test clients only, without client folders.
        validation_classes: Fraction of the classes for validation clients only, without client folders.
    """

    path: str
    skip: tuple[str, ...] = Field(default=(), strict=False)
    test_classes: float = Field(default=0.2, gt=0.0, lt=1.0)
    validation_classes: float = Field(default=0.2, gt=0.0, lt=1.0)


@dataclass(frozen=True)
class Items:
    """The examples, as indices into a pool.

    Attributes:
        where: Where they are from, for messages.
        labels: ``[N]``, the class of each, as an index into `classes`.
        classes: The classes' names, sorted.
        owners: ``[N]``, the client of each, as an index into `clients`; None: no clients.
        clients: The clients' names, sorted.
    """

    where: str
    labels: Indices
    classes: tuple[str, ...]
    owners: Indices | None
    clients: tuple[str, ...]

    @staticmethod
    def of(where: str, labels: tuple[str, ...], clients: tuple[str, ...] | None) -> "Items":
        """Build the items from the class and client names of examples."""
        classes, label = _numbered(labels)
        names, owner = _numbered(clients) if clients is not None else ((), None)
        return Items(where, label, classes, owner, names)

    @staticmethod
    def of_files(listing: Listing) -> "Items":
        """Build the items from the files of a folder."""
        return Items.of(str(listing.root), listing.labels, listing.clients)


class Classed:
    """N-way K-shot tasks over a user's examples, each with a class and perhaps a client.

    *With clients*, as many as the run has are chosen and split by the seed into training, validation and
    test clients. A `partition` other than ``natural`` deals the examples of all training clients among
    them. *Without*, classes are split first, so that held-out clients have classes never seen in
    training; validation clients then share theirs evenly at random, as do test clients, and training
    classes are dealt whole (``natural``), or their examples evenly at random (``iid``) or in random
    shares of each class (``dirichlet``).

    Where examples were dealt, or `skips_small`, a client's classes with too few of them for a task are
    not used; otherwise they are refused.

    Subclasses list the examples; they are read only after the check that there are enough.

    Args:
        options: The options.
        population: The clients.
        seed: The run's seed.
        items: The examples.

    Raises:
        ConfigError: If there are too few examples; the message names the client.
    """

    Options: ClassVar[type[Options]] = ClassedOptions
    examples: ClassVar[str] = "examples"
    skips_small: ClassVar[bool] = False

    def __init__(self, options: Any, population: Population, seed: int, items: Items) -> None:
        self.options: ClassedOptions = options
        self.population = population
        self.items = items
        self.names: tuple[str, ...] = ()
        owned = self._by_client(seed) if items.owners is not None else self._by_class(seed)
        used = [self._usable(client, mine) for client, mine in enumerate(owned)]
        self.clients = [ClassImages(groups) for groups in used]
        training = [items.labels[group[:1]] for groups in used[: population.train] for group in groups]
        known = np.unique(np.concatenate(training))
        # A held-out class gets its insertion index among training classes, which is not used.
        self.classes = np.searchsorted(known, items.labels)
        self.pool = self.read()
        self.spec = spec_of(options, tuple(self.pool.shape[1:]), len(known))

    def choose(self, names: Sequence[str], seed: int) -> tuple[str, ...]:
        """Choose the name of each client of the population from the sorted `names`."""
        return choose(names, self.population, seed, self.items.where)

    def read(self) -> Tensor:
        """Return the inputs of all examples, ``[N, *input_shape]``; uint8 is scaled to [0, 1].

        Raises:
            DataError: If an example cannot be read.
        """
        raise NotImplementedError

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`, examples grouped by class."""
        held_out = self.population.split_of(client) != "train"
        shape = self.shape_of(held_out)
        drawn = self.clients[client].draw(count, shape, rng)
        labels = self.classes if self.options.global_labels(held_out) else None
        tasks = gather(self.pool, drawn, shape[1], labels)
        return TaskBatch(
            self.inputs(tasks.support_x), tasks.support_y, self.inputs(tasks.query_x), tasks.query_y
        )

    def shape_of(self, held_out: bool) -> tuple[int, int, int]:
        """Return ways, shots and queries of a training or held-out client."""
        return self.options.shape(held_out)

    def inputs(self, x: Tensor) -> Tensor:
        """Return a model's inputs, given rows of the pool as real numbers."""
        return x

    def _by_client(self, seed: int) -> list[Indices]:
        assert self.items.owners is not None
        names = self.items.clients
        self.names = self.choose(names, seed)
        owned = [np.flatnonzero(self.items.owners == names.index(name)) for name in self.names]
        if self.options.partition == "natural":
            return owned
        self.names = ("",) * self.population.train + self.names[self.population.train :]
        training = np.sort(np.concatenate(owned[: self.population.train]))
        units = self.items.owners[training]
        receivers = Receivers(self.population.train, units="clients")
        dealt = deal(units, receivers, self.options, stream(seed, "own", "deal"))
        return [training[part] for part in dealt] + owned[self.population.train :]

    def _by_class(self, seed: int) -> list[Indices]:
        self.names = ("",) * len(self.population)
        classes = self.split_classes(seed)
        evenly = PartitionOptions(partition="iid")
        owned = self._deal(classes["train"], "train", self.options, seed)
        for split in ("validation", "test"):
            owned += self._deal(classes[split], split, evenly, seed)
        return owned

    def split_classes(self, seed: int) -> dict[Split, Indices]:
        """Return the classes of the training clients, and those of held-out clients alone."""
        order = stream(seed, "own", "classes").permutation(len(self.items.classes))
        found: dict[Split, Indices] = {}
        first = 0
        shares: dict[Split, float] = {
            "test": self.options.test_classes,
            "validation": self.options.validation_classes,
        }
        for split, share in shares.items():
            clients = len(self.population.clients(split))
            last = first + (max(round(share * len(order)), 1) if clients else 0)
            found[split], first = order[first:last], last
        if first >= len(order):
            raise ConfigError(
                f"data.test_classes and data.validation_classes leave none of the {len(order)} classes "
                f"of {self.items.where} to train on"
            )
        return {"train": order[first:], **found}

    def _deal(
        self, classes: Indices, split: Split, options: PartitionOptions, seed: int
    ) -> list[Indices]:
        items = np.flatnonzero(np.isin(self.items.labels, classes))
        receivers = Receivers(len(self.population.clients(split)), 1, split, "classes")
        dealt = deal(self.items.labels[items], receivers, options, stream(seed, "own", split))
        return [items[part] for part in dealt]

    def _usable(self, client: int, mine: Indices) -> list[Indices]:
        """Return a client's examples of each class with enough of them for a task."""
        held_out = self.population.split_of(client) != "train"
        ways, shots, queries = self.shape_of(held_out)
        prefix = "test_" if held_out else ""
        labels = self.items.labels[mine]
        groups = {int(label): mine[labels == label] for label in np.unique(labels)}
        small = [label for label, group in groups.items() if len(group) < shots + queries]
        name = self.names[client]
        who = f"client '{name}'" if name else f"{self.population.split_of(client)} client {client}"
        if name and small and not self.skips_small:
            few = self.items.classes[small[0]]
            raise ConfigError(
                f"data.{prefix}shots + data.{prefix}queries = {shots} + {queries}, but {who} has "
                f"{len(groups[small[0]])} {self.examples} of '{few}': lower them, "
                f"or leave it out: data.skip = ['{name}/{few}']"
            )
        kept = [group for label, group in groups.items() if label not in small]
        if ways > len(kept):
            enough = f" of {shots + queries} or more {self.examples}" if small else ""
            remedy = (
                f"or leave it out: data.skip = ['{name}']"
                if name
                else "or use fewer clients, or another data.partition"
            )
            raise ConfigError(
                f"data.{prefix}ways = {ways}, but {who} has {len(kept)} classes{enough}: lower it, "
                f"{remedy}"
            )
        return kept


def spec_of(options: LabelOptions, input_shape: tuple[int, ...], classes: int = 0) -> TaskSpec:
    """Return the shape of tasks with `classes` training classes."""
    own = options.labels == "task"
    head = options.head(classes)
    return TaskSpec("classification", input_shape, head, own_labels=own, new_classes=not own)


def pool_of(array: NDArray[Any]) -> Tensor:
    """Return a mapped array as a tensor that shares its memory."""
    return torch.from_numpy(np.asarray(array))


def _numbered(names: tuple[str, ...]) -> tuple[tuple[str, ...], Indices]:
    known = sorted(set(names))
    number = {name: place for place, name in enumerate(known)}
    return tuple(known), np.array([number[name] for name in names], dtype=np.int64)
