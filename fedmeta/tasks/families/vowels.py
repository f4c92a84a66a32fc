"""Few-shot speaker recognition: tells new speakers apart from a few utterances of two vowels."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.options import Options, nearest
from fedmeta.tasks.data.sources import digest_of
from fedmeta.tasks.data.vowels_file import CEPSTRA, SPEAKERS, locate_vowels, read_vowels
from fedmeta.tasks.episodes import LabelOptions
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.own.classed import Classed, Items
from fedmeta.tasks.own.table_encoding import Scale
from fedmeta.tasks.partition import PartitionOptions
from fedmeta.tasks.population import Population, Split
from fedmeta.tasks.seeding import stream

HELD_OUT = 3
"""Speakers of held-out clients that the seed draws."""


class VowelsOptions(LabelOptions, PartitionOptions):
    """Options of `Vowels`: of episodes, labels and partition, and the split.

    Attributes:
        ways: Speakers per task.
        frames: Frames that an utterance, of 7 to 29, is stretched or shrunk to.
        test_speakers: The speakers of the test clients, of ``"1"`` to ``"9"``; None: three, drawn by the
            seed.
        validation_speakers: Likewise of the validation clients.
    """

    ways: int = Field(default=3, ge=2)
    frames: int = Field(default=16, ge=2, le=1000)
    # TOML only has lists, so these two are lenient where all other keys are strict.
    test_speakers: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    validation_speakers: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)


class Vowels(Classed):
    """N-way K-shot tasks, whose classes are speakers; x ``[T, ways * shots, frames, 12]``.

    Nine men say two Japanese vowels in one breath; an utterance is a sequence of 12 cepstra (Kudo,
    Toyama, Shimbo 1999, "Multidimensional Curve Classification Using Passing-Through Regions"). It is
    stretched to `frames` by linear interpolation, and standardised by the training speakers' cepstra.

    A client is a household, whose device tells its members apart. Held-out clients have speakers of
    their own. Training speakers are dealt to households whole (``natural``), or their utterances evenly
    at random (``iid``) or in random shares of each speaker (``dirichlet``).

    Raises:
        ConfigError: If the options do not fit the speakers or the population.
        DataError: If a file is missing or corrupt.
    """

    Options: ClassVar[type[Options]] = VowelsOptions
    examples: ClassVar[str] = "utterances"

    def __init__(self, options: VowelsOptions, population: Population, seed: int) -> None:
        self.format = options
        self.utterances = read_vowels()
        labels = tuple(one.speaker for one in self.utterances)
        super().__init__(options, population, seed, Items.of("Japanese Vowels", labels, None))
        self.spec = self.shape(options)

    @override
    def split_classes(self, seed: int) -> dict[Split, NDArray[np.int64]]:
        """Return the speakers of training and held-out clients."""
        test, validation = self.format.test_speakers, self.format.validation_speakers
        named: dict[Split, tuple[str, ...] | None] = {"test": test, "validation": validation}
        taken = _checked(named, self.population)
        drawn = [name for name in stream(seed, "vowels").permutation(SPEAKERS) if name not in taken]
        found: dict[Split, list[str]] = {}
        for split, names in named.items():
            wanted = HELD_OUT if names is None and self.population.clients(split) else 0
            found[split] = [*(names or ()), *drawn[:wanted]]
            drawn = drawn[wanted:]
        if not drawn:
            raise ConfigError("data.test_speakers and data.validation_speakers leave none to train on")
        found["train"] = drawn
        return {
            split: np.array([self.items.classes.index(name) for name in names], dtype=np.int64)
            for split, names in found.items()
        }

    @override
    def read(self) -> Tensor:
        """Return the utterances, ``[N, frames, 12]``."""
        held = [
            row[:size]
            for client in self.clients[: self.population.train]
            for row, size in zip(client.table, client.sizes, strict=True)
        ]
        rows = np.sort(np.concatenate(held)).tolist()
        known = np.concatenate([self.utterances[row].cepstra for row in rows])
        scales = [Scale.of(known[:, place]) for place in range(CEPSTRA)]
        stretched = [stretch(one.cepstra, self.format.frames) for one in self.utterances]
        columns = [scale.apply(np.stack(stretched)[..., place]) for place, scale in enumerate(scales)]
        return torch.from_numpy(np.stack(columns, axis=-1).astype(np.float32))

    @staticmethod
    def shape(options: VowelsOptions) -> TaskSpec:
        """Return the shape of tasks, which does not depend on the data."""
        return TaskSpec(
            "classification",
            (options.frames, CEPSTRA),
            options.head(len(SPEAKERS)),
            own_labels=options.labels == "task",
            new_classes=options.labels == "global",
        )

    @staticmethod
    def digest(options: VowelsOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of this machine's files."""
        return digest_of(locate_vowels())


def stretch(cepstra: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """Interpolate an utterance ``[L, 12]`` linearly at `frames` places, from its first to its last."""
    places = np.linspace(0, len(cepstra) - 1, frames)
    columns = [np.interp(places, np.arange(len(cepstra)), column) for column in cepstra.T]
    return np.stack(columns, axis=1)


def _checked(named: Mapping[Split, tuple[str, ...] | None], population: Population) -> list[str]:
    """Return all speakers that are named; refuse those unknown, named twice or without a client."""
    taken: list[str] = []
    for split, names in named.items():
        key = f"data.{split}_speakers"
        if names is not None and not population.clients(split):
            raise ConfigError(f"{key} names speakers, but {split}_clients = 0")
        for name in names or ():
            if name not in SPEAKERS:
                raise ConfigError(f"{key}: unknown speaker '{name}': {nearest(name, SPEAKERS)}")
            if name in taken:
                raise ConfigError(f"{key}: '{name}' is named twice")
            taken.append(name)
    return taken
