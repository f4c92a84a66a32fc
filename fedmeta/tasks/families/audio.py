"""A user's own sounds: few-shot classification, one folder per client and class."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import DataError
from fedmeta.options import Options
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.file_inputs import Asked, FileInputs
from fedmeta.tasks.image_pixels import UnreadableError
from fedmeta.tasks.own.classed import Classed, ClassedOptions, Items, pool_of, spec_of
from fedmeta.tasks.own.decoded import Writer, decoded
from fedmeta.tasks.own.folders import SOUNDS, Listing, find, list_classes
from fedmeta.tasks.own.sound_file import MelFormat, log_mel, read_sound
from fedmeta.tasks.own.spectrograms import SpectrogramOptions
from fedmeta.tasks.population import Population

# Part of the name of cached files: raise it when what is kept in them changes.
_FORMAT = "audio 1"


class AudioOptions(SpectrogramOptions, ClassedOptions):
    """Options of `Audio`: those of your own labelled examples, and the format of a spectrogram."""


class Audio(Classed):
    """N-way K-shot tasks over your own sounds; x ``[T, ways * shots, 1, mels, frames]`` in [0, 1].

    Sounds are WAV files of any depth, rate and number of channels (FLAC with the extra ``flac``), as
    log-mel spectrograms, see `log_mel`. How they are dealt to clients: see `Classed`.

    Raises:
        ConfigError: If the options do not fit the sounds or the population.
        DataError: If the folder or a file cannot be used.
    """

    Options: ClassVar[type[Options]] = AudioOptions
    examples: ClassVar[str] = "sounds"

    def __init__(self, options: AudioOptions, population: Population, seed: int) -> None:
        self.format = options
        self.listing = _list(options)
        super().__init__(options, population, seed, Items.of_files(self.listing))

    @override
    def read(self) -> Tensor:
        """Return spectrograms ``[N, 1, mels, frames]``, uint8, mapped into memory."""
        options, files = self.format, self.listing.files

        def fill(writer: Writer) -> dict[str, Any]:
            read_all(files, options.form, writer.put)
            return {}

        what = f"{_FORMAT} {options.form} {self.listing.digest()}"
        key = f"audio-{hashlib.sha256(what.encode()).hexdigest()[:32]}"
        return pool_of(decoded(key, (len(files), *options.input_shape), np.uint8, fill)[0])

    @staticmethod
    def shape(options: AudioOptions) -> TaskSpec | None:
        """Return the shape of tasks; None for global labels, which depend on the data's classes."""
        return None if options.labels == "global" else spec_of(options, options.input_shape)

    @staticmethod
    def digest(options: AudioOptions) -> str:
        """Return the SHA-256 of the files' names and bytes."""
        return _list(options).digest()

    @staticmethod
    def read_files(options: AudioOptions, files: Sequence[Path], asked: Asked) -> FileInputs:  # noqa: ARG004
        """Read files as a model's inputs, for `fedmeta adapt`."""
        pool = np.zeros((len(files), *options.input_shape), dtype=np.uint8)
        read_all(files, options.form, pool.__setitem__)
        return FileInputs(torch.from_numpy(pool).float().div_(255.0))


def read_all(
    files: Sequence[Path], form: MelFormat, put: Callable[[int, NDArray[np.uint8]], None]
) -> None:
    """Pass each file's spectrogram to `put`; `DataError` if some cannot be read."""
    refused: list[str] = []
    for place, file in enumerate(files):
        try:
            put(place, log_mel(read_sound(file), form))
        except UnreadableError as error:
            refused.append(f"{file} {error}")
    if refused:
        more = f" (and {len(refused) - 1} more files)" if refused[1:] else ""
        raise DataError(refused[0] + more)


def _list(options: AudioOptions) -> Listing:
    return list_classes(find(options.path, "folder of sounds"), SOUNDS, options.skip)
