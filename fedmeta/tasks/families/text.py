"""A user's own texts: next-character prediction, one file or folder per client."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator
from typing_extensions import override

from fedmeta.errors import DataError
from fedmeta.options import Key, Options
from fedmeta.tasks.data.text_files import read_text
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.own.clients import choose
from fedmeta.tasks.own.folders import TEXTS, ClientFiles, find, list_clients
from fedmeta.tasks.population import Population
from fedmeta.tasks.text_windows import CHARACTERS, VOCABULARY, TextWindows, encode


class TextOptions(Options):
    """Options of `Text`.

    Attributes:
        path: The folder, ``PATH/<client>.txt`` or ``PATH/<client>/*.txt``, in the current folder or in
            ``FEDMETA_DATA``.
        skip: Clients to leave out.
        characters: Characters to tell apart besides those of ASCII, such as ``"äöüß"``; all others are
            one token.
        length: Characters per window; each position predicts the next character.
        shots: Support windows per task.
        queries: Query windows per task.
        test_queries: Query windows for validation and test clients; None: as in training.
        support_fraction: Share of a client's text, from its start, from which support is drawn.
    """

    path: str
    skip: tuple[str, ...] = Field(default=(), strict=False)
    characters: str = Field(default="", max_length=1000)
    length: int = Field(default=80, ge=1)
    shots: int = Field(default=4, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=4, ge=1)
    test_queries: int | None = Field(default=None, ge=1)
    support_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)

    @field_validator("characters")
    @classmethod
    def _new(cls, characters: str) -> str:
        if len(set(characters)) < len(characters) or set(characters) & set(CHARACTERS):
            raise ValueError("must be different characters that are not ASCII")
        return characters


class Text(TextWindows):
    """Predict the next character at every position; x and y ``[T, windows, length]``, int64 tokens.

    A client's files are joined in the order of their names. Support comes from the earlier part of its
    text and query from the later part; windows of a task do not overlap. Only visible text counts, see
    `read_text`.

    Raises:
        ConfigError: If there are too few clients, or one has too little text; the message names it.
        DataError: If the folder or a file cannot be read.
    """

    Options: ClassVar[type[Options]] = TextOptions

    def __init__(self, options: TextOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.spec = self.shape(options)
        self.characters = CHARACTERS + options.characters
        files = _list(options)
        self.names = choose(sorted(files), population, seed, options.path)
        self.texts = tuple(encode(read_client(files[name]), options.characters) for name in self.names)
        self.require_enough()

    @override
    def who(self, client: int) -> str:
        """Return the client's name in messages."""
        return f"client '{self.names[client]}'"

    @staticmethod
    def shape(options: TextOptions) -> TaskSpec:
        """Return the shape of tasks."""
        tokens = VOCABULARY + len(options.characters)
        return TaskSpec("classification", (options.length,), tokens, tokens)

    @staticmethod
    def digest(options: TextOptions) -> str:
        """Return the SHA-256 of the files' names and bytes."""
        return ClientFiles(_list(options)).digest()


def read_client(files: Sequence[Path]) -> str:
    """Return a client's visible text.

    Raises:
        DataError: If there is none, or a file cannot be read.
    """
    text = "\n".join(read_text(file).text.strip() for file in files)
    if not text.strip():
        raise DataError(f"{files[0]} has no text")
    return text


def _list(options: TextOptions) -> dict[str, tuple[Path, ...]]:
    return list_clients(find(options.path, "folder of texts"), TEXTS, options.skip)
