"""A user's own arrays: classification or regression, one file of examples per client."""

import hashlib
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.options import Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.own.array_file import files_of, read_array, read_targets
from fedmeta.tasks.own.classed import Classed, ClassedOptions, Items, pool_of
from fedmeta.tasks.own.decoded import Writer, decoded
from fedmeta.tasks.own.folders import ARRAYS, ClientFiles, find, list_clients
from fedmeta.tasks.population import Population

# Part of the name of cached files: raise it when what is kept in them changes.
_FORMAT = "arrays 1"


class ArraysOptions(ClassedOptions):
    """Options of `Arrays`: those of your own labelled examples.

    Attributes:
        path: The folder, ``PATH/<client>.npz`` or ``.safetensors``, each with arrays ``x`` and ``y``, in
            the current folder or in ``FEDMETA_DATA``.
        ways: Classes per task; not used in regression.
    """


class Arrays(Classed):
    """Tasks over your own arrays: inputs ``x [N, ...]`` and targets ``y`` for each client.

    With integers ``y [N]``, tasks are N-way K-shot classification; with real numbers ``y [N]`` or ``[N,
    outputs]``, regression on `shots` and `queries` examples of a client. Real inputs and targets are
    used as they are; bytes are scaled to [0, 1]. How examples are dealt to clients: see `Classed`.
    A client's classes with too few examples for a task are not used.

    Raises:
        ConfigError: If there are too few examples; the message names the client.
        DataError: If a file cannot be used, or files do not agree with each other.
    """

    Options: ClassVar[type[Options]] = ArraysOptions
    skips_small: ClassVar[bool] = True

    def __init__(self, options: ArraysOptions, population: Population, seed: int) -> None:
        self.files = _list(options)
        self.targets = read_targets(self.files)
        self.regression = self.targets.values.dtype.kind == "f"
        labels = ["" if self.regression else str(one) for one in self.targets.values.tolist()]
        items = Items.of(options.path, tuple(labels), self.targets.clients)
        super().__init__(options, population, seed, items)
        if self.regression:
            shape = tuple(self.pool.shape[1:])
            self.spec = TaskSpec("regression", shape, self.targets.values.shape[1])

    @override
    def read(self) -> Tensor:
        """Return the examples of all clients, mapped into memory."""

        def fill(writer: Writer) -> dict[str, Any]:
            place = 0
            for file in files_of(self.files):
                for row in read_array(file, "x"):
                    writer.put(place, row)
                    place += 1
            return {}

        what = f"{_FORMAT} {ClientFiles(self.files).digest()}"
        key = f"arrays-{hashlib.sha256(what.encode()).hexdigest()[:32]}"
        shape = (len(self.targets.clients), *self.targets.shape)
        return pool_of(decoded(key, shape, self.targets.dtype, fill)[0])

    @override
    def shape_of(self, held_out: bool) -> tuple[int, int, int]:
        """Return ways, shots and queries; regression has one way, which is not a class."""
        ways, shots, queries = super().shape_of(held_out)
        return (1 if self.regression else ways), shots, queries

    @override
    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`."""
        if not self.regression:
            return super().sample(client, count, rng)
        shape = self.shape_of(self.population.split_of(client) != "train")
        rows = self.clients[client].draw(count, shape, rng)[:, 0]
        x, y = self.pool[torch.from_numpy(rows)], self.targets.values[rows].astype(np.float32)
        x = x if x.is_floating_point() else x.float().div_(255.0)
        shots, values = shape[1], torch.from_numpy(y)
        return TaskBatch(x[:, :shots], values[:, :shots], x[:, shots:], values[:, shots:])

    @staticmethod
    def digest(options: ArraysOptions) -> str:
        """Return the SHA-256 of the files' names and bytes."""
        return ClientFiles(_list(options)).digest()


def _list(options: ArraysOptions) -> dict[str, Any]:
    return list_clients(find(options.path, "folder of arrays"), ARRAYS, options.skip)
