"""Spoken digits: few-shot classification of words, where a client is a speaker."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.data.sources import how_to_fetch, locate, sha256_of, source_named
from fedmeta.tasks.data.speech_files import MOST_BYTES, Recordings, open_recordings, sum_of_recordings
from fedmeta.tasks.episodes import LabelOptions
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.image_pixels import UnreadableError
from fedmeta.tasks.own.classed import Classed, Items, pool_of
from fedmeta.tasks.own.clients import Named, choose_named
from fedmeta.tasks.own.decoded import Writer, decoded
from fedmeta.tasks.own.sound_file import log_mel, read_wav
from fedmeta.tasks.own.spectrograms import SpectrogramOptions
from fedmeta.tasks.partition import PartitionOptions
from fedmeta.tasks.population import Population
from fedmeta.tasks.spectrogram_augmentation import SpectrogramAugmentation, augment_spectrograms

SOURCE = "speech"
WORDS = 10

# Part of the name of cached files: raise it when what is kept in them changes.
_FORMAT = "speech 1"


class SpeechOptions(LabelOptions, PartitionOptions, SpectrogramOptions, SpectrogramAugmentation):
    """Options of `Speech`: of episodes, labels, partition, spectrograms and augmentation, and the split.

    Attributes:
        test_speakers: The speakers of the test clients, as many as there are; None: drawn by the seed.
        validation_speakers: Likewise of the validation clients.
        test_labels: ``task``: held-out clients number the words anew in every task; ``global``: by the
            word, as in training with ``labels = "global"``, to test a classifier without adaptation.
    """

    rate: int = Field(default=8_000, ge=4_000, le=48_000)
    seconds: float = Field(default=0.64, ge=0.08, le=30.0)
    # TOML only has lists, so these two are lenient where all other keys are strict.
    test_speakers: tuple[str, ...] | None = Field(default=None, strict=False)
    validation_speakers: tuple[str, ...] | None = Field(default=None, strict=False)
    test_labels: Annotated[Literal["task", "global"], Key(evaluation=True)] = "task"

    @override
    def global_labels(self, held_out: bool) -> bool:
        """Return whether the tasks of a training or held-out client have global labels."""
        return self.labels == "global" and not (held_out and self.test_labels == "task")


class Speech(Classed):
    """N-way K-shot tasks over ten spoken digits; x ``[T, ways * shots, 1, mels, frames]`` in [0, 1].

    A client is a speaker of the Free Spoken Digit Dataset, and examples are log-mel spectrograms, see
    `log_mel`. All speakers say the same ten words: a held-out client's *voice* is new, its words are
    not. Labels are assigned anew in every task, so that they have to be learned from the support set.

    Raises:
        ConfigError: If the options do not fit the recordings or the population.
        DataError: If the file is missing or corrupt.
    """

    Options: ClassVar[type[Options]] = SpeechOptions
    examples: ClassVar[str] = "recordings"

    def __init__(self, options: SpeechOptions, population: Population, seed: int) -> None:
        _check(options)
        self.format = options
        self.path = _path()
        with _opened(self.path) as recordings:
            self.recordings = recordings.listed
        words = tuple(one.word for one in self.recordings)
        speakers = tuple(one.speaker for one in self.recordings)
        super().__init__(options, population, seed, Items.of(str(self.path), words, speakers))
        self.spec = self.shape(options)

    @override
    def choose(self, names: Sequence[str], seed: int) -> tuple[str, ...]:
        """Return the speaker of each client."""
        named: Named = {"validation": self.format.validation_speakers, "test": self.format.test_speakers}
        return choose_named(names, named, self.population, seed, "speakers")

    @override
    def read(self) -> Tensor:
        """Return spectrograms ``[N, 1, mels, frames]``, uint8, mapped into memory."""
        options = self.format
        # Of the file, which takes a hundredth of the time of that of its recordings.
        what = f"{_FORMAT} {options.form} {sha256_of(self.path, MOST_BYTES)}"
        key = f"speech-{hashlib.sha256(what.encode()).hexdigest()[:32]}"
        shape = (len(self.recordings), *options.input_shape)
        return pool_of(decoded(key, shape, np.uint8, self._fill)[0])

    @override
    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`, examples grouped by class."""
        tasks = super().sample(client, count, rng)
        if self.population.split_of(client) != "train":
            return tasks
        return augment_spectrograms(tasks, self.format, rng)

    @staticmethod
    def shape(options: SpeechOptions) -> TaskSpec:
        """Return the shape of tasks, which does not depend on the data."""
        return TaskSpec(
            "classification",
            options.input_shape,
            options.head(WORDS),
            own_labels=options.labels == "task",
            new_classes=options.labels == "global" and options.test_labels == "task",
        )

    @staticmethod
    def digest(options: SpeechOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of the recordings, however they are packed."""
        return sum_of_recordings(_path())

    def _fill(self, writer: Writer) -> dict[str, Any]:
        with _opened(self.path) as recordings:
            for place, one in enumerate(recordings.listed):
                try:
                    writer.put(place, log_mel(read_wav(BytesIO(recordings.read(one))), self.format.form))
                except UnreadableError as error:
                    raise ValueError(f"{one.member} {error}") from None
        return {}


def _check(options: SpeechOptions) -> None:
    """Refuse tasks that need more recordings than a speaker has."""
    if options.outputs > WORDS:
        prefix = "test_" if options.outputs > options.ways else ""
        raise ConfigError(f"data.{prefix}ways = {options.outputs}, but there are {WORDS} words")
    if options.test_labels == "global" and options.labels == "task":
        raise ConfigError("data.test_labels = 'global' needs data.labels = 'global'")


def _path() -> Path:
    return locate(source_named(SOURCE).files[0].path, SOURCE)


def _opened(path: Path) -> AbstractContextManager[Recordings]:
    return open_recordings(path, how_to_fetch(SOURCE, corrupt=path))
