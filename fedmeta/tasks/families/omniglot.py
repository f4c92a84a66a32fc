"""Omniglot: few-shot classification of handwritten characters of many alphabets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options, nearest
from fedmeta.tasks.augmentation import AugmentationOptions, augment
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.data.omniglot_files import PAGE, SIDE, Characters, read_characters
from fedmeta.tasks.data.sources import digest_of, locate, source_named
from fedmeta.tasks.episodes import ClassImages, LabelOptions, gather
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.image_files import ImageStyle
from fedmeta.tasks.partition import PartitionOptions, Receivers, Scheme, deal
from fedmeta.tasks.population import Population, Split
from fedmeta.tasks.seeding import stream
from fedmeta.tasks.sequences import OrderOptions, arrange

Indices = NDArray[np.int64]

SOURCES = {"small": "omniglot", "full": "omniglot-full"}
SMALL_TEST_ALPHABETS = ("Sanskrit", "Tagalog")
TEST_CHARACTERS = 0.2
QUARTER_TURNS = 4


class OmniglotOptions(LabelOptions, OrderOptions, PartitionOptions, AugmentationOptions):
    """Options of `Omniglot`: those of episodes, labels, order, partition, augmentation, and the split.

    Attributes:
        test_partition: How held-out clients' characters are dealt, with the same schemes. It is a
            separate key so that runs with different `partition` are tested on the same tasks.
        source: ``small``: both small official sets, 242 characters; ``full``: all 1,623.
        size: Side of the images in pixels; the files have 105, which take 1.4 GB of memory for all
            characters in four rotations.
        split: What training and test never share: ``alphabets`` or ``characters``.
        test_alphabets: Alphabets for test clients; None: Sanskrit and Tagalog of the small sets, the
            evaluation set of the full one.
        validation_alphabets: Alphabets for validation clients.
        test_characters: Fraction of all characters for test clients, with split ``characters``; None:
            0.2.
        validation_characters: Fraction of the characters for validation clients; with split
            ``alphabets``, it is taken from each training alphabet, so that no test alphabet is used.
        rotations: Whether training clients also have their characters rotated by 90, 180 and 270
            degrees, as separate classes (Santoro et al. 2016, arXiv:1605.06065).
        test_drawers: Who drew the images of a held-out client's task: ``any``; or ``two``: characters of
            one alphabet, the support images by one person and the query images by another (Lake et al.
            2015).
    """

    test_partition: Scheme = "iid"
    source: Literal["small", "full"] = "small"
    size: int = Field(default=SIDE, ge=8, le=PAGE)
    split: Literal["alphabets", "characters"] = "alphabets"
    # TOML only has lists, so these two are lenient where all other keys are strict.
    test_alphabets: tuple[str, ...] | None = Field(default=None, strict=False)
    validation_alphabets: tuple[str, ...] = Field(default=(), strict=False)
    test_characters: float | None = Field(default=None, gt=0.0, lt=1.0)
    validation_characters: float = Field(default=0.0, ge=0.0, lt=1.0)
    rotations: Annotated[bool, Key(arm="any")] = True
    test_drawers: Annotated[Literal["any", "two"], Key(evaluation=True)] = "any"


class Omniglot:
    """N-way K-shot tasks over characters; x ``[T, ways * shots, 1, size, size]`` in [0, 1], ink 1.

    Characters are split first (see `split_characters`) and then dealt to the clients of their split, so
    a character, with its drawings and rotations, has one owner. Labels are drawn for every task; with
    ``labels = "global"`` each training character, at each rotation, is a class shared by all tasks.

    Paper: Lake et al. 2015, "Human-level concept learning"; episodes as in Vinyals et al. 2016.

    Raises:
        ConfigError: If the options do not fit the data or the population.
        DataError: If the files are missing or corrupt, or Pillow is missing to decode them.
    """

    Options: ClassVar[type[Options]] = OmniglotOptions
    image_style: ClassVar[ImageStyle] = ImageStyle()

    def __init__(self, options: OmniglotOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.characters = read_characters(_files(options), SOURCES[options.source], options.size)
        self.split = split_characters(self.characters, options, stream(seed, "omniglot", "split"))
        self.owned: list[Indices] = []
        for split in ("train", "validation", "test"):
            self.owned += self._deal(split, stream(seed, "omniglot", split))
        pages = torch.from_numpy(self.characters.images)[:, None]
        turns = range(QUARTER_TURNS if options.rotations else 1)
        self.pool = torch.cat([torch.rot90(pages, k, (2, 3)) for k in turns])
        # For a held-out character, this is where it would be among training characters: never used.
        place = np.searchsorted(self.split["train"], self.characters.character)
        self.classes = np.concatenate([place * len(turns) + k for k in turns])
        self.spec = _spec(options, len(self.split["train"]) * len(turns))
        self.clients = [self._images(client) for client in range(len(population))]
        self._alphabets = self._drawn_by_two() if options.test_drawers == "two" else {}

    @staticmethod
    def shape(options: OmniglotOptions) -> TaskSpec | None:
        """Return the shape of tasks; None for global labels, which depend on the data's characters."""
        return None if options.labels == "global" else _spec(options, 0)

    @staticmethod
    def digest(options: OmniglotOptions) -> str:
        """Return the SHA-256 of the local data files."""
        return digest_of(_files(options))

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`; x ``[T, ways * shots, 1, size, size]``, see `OrderOptions`."""
        held_out = self.population.split_of(client) != "train"
        shape = self.options.shape(held_out)
        if held_out and self.options.test_drawers == "two":
            drawn = draw_by_two(self._alphabets[client], count, shape[0], rng)
        else:
            drawn = self.clients[client].draw(count, shape, rng)
        labels = self.classes if self.options.global_labels(held_out) else None
        tasks = gather(self.pool, drawn, shape[1], labels)
        if not held_out:
            tasks = augment(tasks, self.options, rng, self.spec.input_shape, self.image_style)
        return arrange(tasks, self.options, rng)

    def _drawn_by_two(self) -> dict[int, list[Indices]]:
        """Return the images of each held-out client's alphabets, ``[characters, drawers]`` each.

        Raises:
            ConfigError: If a task needs more than one image of a drawer, or no alphabet of a client has
                enough characters.
        """
        ways, shots, queries = self.options.shape(held_out=True)
        if (shots, queries) != (1, 1):
            raise ConfigError(
                "data.test_drawers = 'two' needs data.test_shots = 1 and data.test_queries = 1: "
                "each person drew a character once"
            )
        names = np.array(self.characters.alphabets)
        found = {}
        for client in range(self.population.train, len(self.population)):
            owned = self.owned[client]
            tables = [self.clients[client].table[names[owned] == one] for one in np.unique(names[owned])]
            found[client] = [table for table in tables if len(table) >= ways]
            if not found[client]:
                most = max(map(len, tables))
                raise ConfigError(
                    f"data.test_ways = {ways}, but no alphabet of {self.population.split_of(client)} "
                    f"client {client} has more than {most} characters of its own; set it to {most} or "
                    "less, or data.test_partition to 'natural'"
                )
        return found

    def _deal(self, split: Split, rng: np.random.Generator) -> list[Indices]:
        characters = self.split[split]
        clients = len(self.population.clients(split))
        if clients and not len(characters):
            raise ConfigError(
                f"{clients} {split} clients, but no characters are held out for them: "
                f"set data.{split}_alphabets or data.{split}_characters"
            )
        ways = self.options.shape(split != "train")[0]
        turned = split == "train" and self.options.rotations
        needed = -(-ways // QUARTER_TURNS) if turned else ways
        units = np.unique(np.array(self.characters.alphabets)[characters], return_inverse=True)[1]
        scheme = self.options.partition if split == "train" else self.options.test_partition
        receivers = Receivers(clients, needed if scheme == "dirichlet" else 1, split, "alphabets")
        partition = PartitionOptions(partition=scheme, alpha=self.options.alpha)
        return [characters[items] for items in deal(units, receivers, partition, rng)]

    def _images(self, client: int) -> ClassImages:
        split = self.population.split_of(client)
        turns = QUARTER_TURNS if split == "train" and self.options.rotations else 1
        starts = np.searchsorted(self.characters.character, np.arange(len(self.characters.names) + 1))
        pages = len(self.characters.images)
        classes = [
            np.arange(starts[character], starts[character + 1]) + turn * pages
            for character in self.owned[client]
            for turn in range(turns)
        ]
        images = ClassImages(classes)
        images.check(f"{split} client {client}", self.options.shape(split != "train"), _prefix(split))
        return images


def draw_by_two(
    alphabets: Sequence[Indices], count: int, ways: int, rng: np.random.Generator
) -> Indices:
    """Draw tasks as Lake et al. 2015 do: `ways` characters of an alphabet, each drawn by two people.

    Args:
        alphabets: Image of each character by each drawer, ``[characters, drawers]``; the same drawers
            for all characters of an alphabet.
        count: Number of tasks.
        ways: Characters of a task.
        rng: The random generator.

    Returns:
        Images ``[count, ways, 2]``: the first drawer's, and the second one's.
    """
    tasks = []
    for _ in range(count):
        table = alphabets[int(rng.integers(len(alphabets)))]
        characters = rng.permutation(len(table))[:ways]
        drawers = rng.permutation(table.shape[1])[:2]
        tasks.append(table[np.ix_(characters, drawers)])
    return np.stack(tasks)


def _files(options: OmniglotOptions) -> list[Path]:
    source = SOURCES[options.source]
    return [locate(file.path, source) for file in source_named(source).files]


def _spec(options: OmniglotOptions, classes: int) -> TaskSpec:
    own = options.labels == "task"
    return TaskSpec(
        options.objective,
        (1, options.size, options.size),
        options.head(classes),
        own_labels=own,
        new_classes=not own,
        instances=options.instances if options.order == "sequence" else 0,
    )


def split_characters(
    characters: Characters, options: OmniglotOptions, rng: np.random.Generator
) -> dict[Split, Indices]:
    """Return the characters of each split, in increasing order; each character is in one split.

    Raises:
        ConfigError: If an alphabet is unknown or in two splits, or nothing is left to train on.
    """
    by_alphabet = options.split == "alphabets"
    test, validation = (_by_alphabet if by_alphabet else _by_character)(characters, options, rng)
    held_out = np.concatenate([test, validation])
    train = np.setdiff1d(np.arange(len(characters.names)), held_out)
    if not len(train):
        raise ConfigError("data.test_alphabets and data.validation_alphabets leave nothing to train on")
    return {"train": train, "validation": np.sort(validation), "test": np.sort(test)}


def _by_alphabet(
    characters: Characters, options: OmniglotOptions, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    if options.test_characters is not None:
        raise ConfigError(
            "data.test_characters needs data.split = 'characters'; name data.test_alphabets"
        )
    alphabets = np.array(characters.alphabets)
    if options.test_alphabets is None and options.source == "full":
        test = np.flatnonzero(characters.files == 1)
    else:
        named = SMALL_TEST_ALPHABETS if options.test_alphabets is None else options.test_alphabets
        _check_names("test_alphabets", named, alphabets)
        test = np.flatnonzero(np.isin(alphabets, named))
    _check_names("validation_alphabets", options.validation_alphabets, alphabets)
    whole = np.flatnonzero(np.isin(alphabets, options.validation_alphabets))
    for alphabet in np.intersect1d(alphabets[whole], alphabets[test])[:1]:
        raise ConfigError(f"data.validation_alphabets: '{alphabet}' is a test alphabet")
    parts = [whole]
    rest = np.setdiff1d(np.arange(len(alphabets)), np.concatenate([test, whole]))
    for alphabet in np.unique(alphabets[rest]):
        own = rng.permutation(rest[alphabets[rest] == alphabet])
        parts.append(own[: round(options.validation_characters * len(own))])
    return test, np.concatenate(parts)


def _by_character(
    characters: Characters, options: OmniglotOptions, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    if options.test_alphabets is not None or options.validation_alphabets:
        key = "test_alphabets" if options.test_alphabets is not None else "validation_alphabets"
        raise ConfigError(f"data.{key} needs data.split = 'alphabets'")
    shuffled = rng.permutation(len(characters.names))
    fraction = TEST_CHARACTERS if options.test_characters is None else options.test_characters
    first = round(fraction * len(shuffled))
    last = first + round(options.validation_characters * len(shuffled))
    if last >= len(shuffled):
        raise ConfigError("data.test_characters + data.validation_characters leave nothing to train on")
    return shuffled[:first], shuffled[first:last]


def _check_names(key: str, names: Sequence[str], alphabets: NDArray[np.str_]) -> None:
    known = set(alphabets.tolist())
    for name in names:
        if name not in known:
            raise ConfigError(f"data.{key}: unknown alphabet '{name}': {nearest(name, known)}")


def _prefix(split: Split) -> str:
    return "" if split == "train" else "test_"
