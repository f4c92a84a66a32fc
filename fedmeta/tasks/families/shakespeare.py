"""Shakespeare: next-character prediction on plays, where a client is a speaker."""

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from fedmeta.errors import ConfigError, DataError
from fedmeta.options import Key, Options
from fedmeta.tasks.data.sources import how_to_fetch, locate, sha256_of, source_named
from fedmeta.tasks.data.text_files import TextFile, read_text
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.partition import PartitionOptions, Receivers, deal
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream
from fedmeta.tasks.text_windows import CHARACTERS, VOCABULARY, TextWindows, encode

log = logging.getLogger(__name__)

SOURCE = "shakespeare"

# This does not say how to fetch the official file, which would overwrite the user's own text.
_OWN_TEXT = "correct it, or set data.verify to true for the official text"
_SPEECH = re.compile(r"(?P<speaker>[^\n]+):\n(?P<words>.+)", re.DOTALL)
# Cyrillic and Greek letters that look like Latin ones.
_LATIN = str.maketrans("АВЕКМНОРСТХаеорсухЅІЈΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTXaeopcyxSIJABEZHIKMNOPTYXo")


class ShakespeareOptions(PartitionOptions):
    """Options of `Shakespeare`: those of the partition, and the shape of a task.

    Attributes:
        length: Characters per window; each position predicts the next character.
        shots: Support windows per task.
        queries: Query windows per task.
        test_queries: Query windows for validation and test clients; None: as in training.
        support_fraction: Share of a speaker's text, from its start, from which support is drawn.
        verify: Whether the file must be the official one; false for your own text in the same layout.
    """

    length: int = Field(default=80, ge=1)
    shots: int = Field(default=4, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=4, ge=1)
    test_queries: int | None = Field(default=None, ge=1)
    support_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    verify: bool = True


class Shakespeare(TextWindows):
    """Predict the next character at every position; x and y ``[T, windows, length]``, int64 tokens.

    The clients are the speakers with the most text, shuffled by the seed into training, validation and
    test. Support comes from the earlier part of a speaker's text and query from the later part; windows
    of a task do not overlap. Tokens are printable ASCII, newline, and one for all other characters.

    A `partition` other than ``natural`` deals the training speakers' whole speeches among the training
    clients, in random order.

    Paper: McMahan et al. 2017, "Communication-Efficient Learning", uses speakers as clients.

    Raises:
        ConfigError: If there are fewer speakers than clients, or one has too little text for a task.
        DataError: If the text is missing, corrupt or truncated.
    """

    Options: ClassVar[type[Options]] = ShakespeareOptions
    characters: ClassVar[str] = CHARACTERS

    def __init__(self, options: ShakespeareOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.spec = self.shape(options)
        said = read_speakers(options.verify)
        if len(said) < len(population):
            raise ConfigError(f"{len(population)} clients, but the plays have {len(said)} speakers")
        texts = {speaker: "\n".join(speeches) for speaker, speeches in said.items()}
        most = sorted(texts, key=lambda name: (-len(texts[name]), name))[: len(population)]
        order = stream(seed, "shakespeare").permutation(len(population))
        self.speakers = tuple(most[place] for place in order.tolist())
        own = [said[speaker] for speaker in self.speakers]
        if options.partition != "natural":
            training = own[: population.train]
            own[: population.train] = redeal(training, options, stream(seed, "shakespeare", "deal"))
        self.texts = tuple(encode("\n".join(speeches)) for speeches in own)
        self.require_enough()

    @staticmethod
    def shape(options: ShakespeareOptions) -> TaskSpec:
        """Return the shape of tasks."""
        return TaskSpec("classification", (options.length,), VOCABULARY, VOCABULARY)

    @staticmethod
    def digest(options: ShakespeareOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of the file of plays."""
        return sha256_of(locate(source_named(SOURCE).files[0].path, SOURCE))

    @override
    def who(self, client: int) -> str:
        """Return the client's name in messages."""
        dealt = self.options.partition != "natural" and self.population.split_of(client) == "train"
        return f"client {client}" if dealt else f"speaker '{self.speakers[client]}'"


def redeal(
    said: list[list[str]], options: PartitionOptions, rng: np.random.Generator
) -> list[list[str]]:
    """Deal the speeches of speakers among as many clients, each client's in random order.

    Raises:
        ConfigError: If the partition leaves a client without a speech.
    """
    speeches = [speech for own in said for speech in own]
    speakers = np.repeat(np.arange(len(said)), [len(own) for own in said])
    dealt = deal(speakers, Receivers(len(said), units="speakers"), options, rng)
    return [[speeches[place] for place in rng.permutation(part).tolist()] for part in dealt]


@dataclass(frozen=True)
class Play:
    """A text grouped by speaker.

    Attributes:
        said: The speeches of each speaker, in the order of the text.
        file: The text file.
        left_out: Blocks that are not speech.
    """

    said: dict[str, list[str]]
    file: TextFile
    left_out: tuple[str, ...]


def read_speakers(verify: bool) -> dict[str, list[str]]:
    """Return the speeches of each speaker, in the order of the plays; log oddities of the file.

    Args:
        verify: Whether to refuse a file that differs from the official one.

    Raises:
        DataError: If the file is missing, not the official one, or not a play.
    """
    (official,) = source_named(SOURCE).files
    path = locate(official.path, SOURCE)
    if verify and sha256_of(path) != official.sha256:
        raise DataError(
            f"{path} is corrupt, truncated or not the official file (its SHA-256 differs): "
            f"{how_to_fetch(SOURCE, corrupt=path)}; data.verify = false reads your own text"
        )
    play = read_play(path)
    if play.file.odd:
        _warn(f"{path}: {'; '.join(play.file.odd)}; see `fedmeta data check` for details")
    return play.said


@cache
def _warn(line: str) -> None:
    """Log a warning once per process, as a run builds its family more than once."""
    log.warning("%s", line)


def read_play(path: Path, remedy: str = _OWN_TEXT) -> Play:
    """Read a text of blocks separated by blank lines, each a line ``SPEAKER:`` and a speech.

    Speeches depend only on the visible text, see `read_text`. A line of spaces is blank; trailing spaces
    of a line and extra spaces around or within a speaker's name are ignored. The official text keeps
    its few such spaces, as recorded results depend on them.

    Args:
        path: The file.
        remedy: What to do about a text without speeches, for the message.

    Raises:
        DataError: If it cannot be read, or has no speech.
    """
    file = read_text(path)
    text = file.text
    (official,) = source_named(SOURCE).files
    as_it_is = hashlib.sha256(text.encode()).hexdigest() == official.sha256
    if not as_it_is:
        text = "\n".join(line.rstrip(" ") for line in text.split("\n"))
    said: dict[str, list[str]] = {}
    left_out: list[str] = []
    for block in re.split(r"\n{2,}", text.strip()):
        speech = _SPEECH.fullmatch(block)
        speaker = speech["speaker"] if speech else ""
        if not as_it_is:
            speaker = " ".join(speaker.split())
        if speech and speaker:
            said.setdefault(speaker, []).append(speech["words"])
        else:
            left_out.append(block)
    if not said:
        raise DataError(f"{path} has no speech (a line 'SPEAKER:' and text): {remedy}")
    return Play(said, file, tuple(left_out))


def lookalikes(speakers: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only in capitals, punctuation or look-alike letters."""
    groups: dict[str, list[str]] = {}
    for speaker in speakers:
        plain = unicodedata.normalize("NFKD", speaker.translate(_LATIN)).casefold()
        groups.setdefault("".join(c for c in plain if c.isalnum()), []).append(speaker)
    return [tuple(group) for group in groups.values() if len(group) > 1]
