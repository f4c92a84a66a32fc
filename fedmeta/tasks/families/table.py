"""A user's own table: regression or classification, one client per value of a column."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedmeta.errors import ConfigError, DataError
from fedmeta.options import Key, Options, nearest
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.data.sources import sha256_of
from fedmeta.tasks.data.text_files import visible
from fedmeta.tasks.episodes import ClassImages, gather
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.own.clients import choose
from fedmeta.tasks.own.folders import find
from fedmeta.tasks.own.table_encoding import Encoder, Scale, filled
from fedmeta.tasks.own.table_file import Decimal, read_table
from fedmeta.tasks.own.table_file import Table as Cells
from fedmeta.tasks.population import Population

Indices = NDArray[np.int64]


MOST_CLASSES = 1000


class TableOptions(Options):
    """Options of `Table`.

    Attributes:
        path: The CSV or Parquet file, in the current folder or in ``FEDMETA_DATA``.
        client: The column with the client of each row.
        target: The column to predict, or several: each is a task of its own.
        features: The columns to predict from; None: all others.
        categories: Feature columns that hold categories, not numbers.
        objective: ``regression``, ``classification``, or ``auto``: classification of targets with text.
        ways: Classes per task, in classification; None: all of a target's.
        shots: Support rows per task, in classification per class.
        queries: Query rows per task, in classification per class.
        test_shots: For validation and test clients; None: as in training.
        test_queries: For validation and test clients; None: as in training.
        empty: An empty cell in a column of numbers is an error (``refuse``) or the training clients'
            mean (``mean``). A row with an empty target is not used for that target.
        delimiter: Cell delimiter; ``auto``: detected from the first line.
        decimal: The decimal sign of numbers; ``auto``: detected from the numbers.
        skip: Clients to leave out.
    """

    path: str
    client: str
    target: str | Annotated[tuple[str, ...], Field(strict=False)]
    features: tuple[str, ...] | None = Field(default=None, strict=False)
    categories: tuple[str, ...] = Field(default=(), strict=False)
    objective: Literal["auto", "regression", "classification"] = "auto"
    ways: int | None = Field(default=None, ge=2)
    shots: Annotated[int, Key(arm="training")] = Field(default=5, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=5, ge=1)
    test_shots: int | None = Field(default=None, ge=1)
    test_queries: int | None = Field(default=None, ge=1)
    empty: Literal["refuse", "mean"] = "refuse"
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    decimal: Decimal = "auto"
    skip: tuple[str, ...] = Field(default=(), strict=False)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns to predict."""
        return (self.target,) if isinstance(self.target, str) else self.target


class Table:
    """Tasks over the rows of your own table; x ``[T, rows, inputs]``, standardised.

    A task is one target of one client: rows with that target are drawn without replacement. In
    classification there are `ways` classes with `shots` and `queries` rows each. A label is the class's
    place among all values of the target; if a target has more values than `ways`, every task numbers its
    classes anew, at random. Means and deviations, of targets too, are those of the
    training clients' rows, so the mean squared error of always predicting their mean is about 1.

    Raises:
        ConfigError: If a column is missing or a client has too few rows; the message names it.
        DataError: If the file cannot be read, or a cell cannot be used; the message names its line.
    """

    Options: ClassVar[type[Options]] = TableOptions

    def __init__(self, options: TableOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        table = read(options)
        owners = _owners(table, options)
        clients = tuple(sorted(set(owners.tolist()) - set(_skipped(owners, options, table.path))))
        self.names = choose(clients, population, seed, str(table.path))
        training = np.flatnonzero(np.isin(owners, self.names[: population.train]))
        self.encoder = _encoder(table, options, training)
        self.classification = _is_classification(table, options)
        make = classes_of if self.classification else values_of
        self.targets = {name: make(table, name, training) for name in options.targets}
        self.ways = self._ways()
        self.usable = [self._of_client(client, owners) for client in range(len(population))]
        self.pool = torch.from_numpy(self.encoder.encode(table))
        objective = "classification" if self.classification else "regression"
        most = max(len(target.classes) for target in self.targets.values())
        self.numbered_anew = self.classification and self.ways < most
        self.spec = TaskSpec(objective, (self.encoder.inputs,), self.ways, own_labels=self.numbered_anew)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`, each of a random target that it has rows of."""
        shots, queries = self._shape(client)
        names = list(self.usable[client])
        tasks = []
        for place in rng.integers(len(names), size=count).tolist():
            target, groups = self.targets[names[place]], self.usable[client][names[place]]
            if self.classification:
                drawn = groups.draw(1, (self.ways, shots, queries), rng)
                labels = None if self.numbered_anew else target.labels
                tasks.append(gather(self.pool, drawn, shots, labels))
                continue
            # One class of rows: a regression has none.
            rows = torch.from_numpy(groups.draw(1, (1, shots, queries), rng)[:, 0])
            y = target.values[rows, None]
            x = self.pool[rows]
            tasks.append(TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:]))
        return TaskBatch.concat(tasks)

    def _shape(self, client: int) -> tuple[int, int]:
        options = self.options
        if self.population.split_of(client) == "train":
            return options.shots, options.queries
        return options.test_shots or options.shots, options.test_queries or options.queries

    def _ways(self) -> int:
        if not self.classification:
            return 1
        counts = {name: len(target.classes) for name, target in self.targets.items()}
        least = min(counts, key=lambda name: counts[name])
        ways = self.options.ways or counts[least]
        if self.options.ways is None and len(set(counts.values())) > 1:
            raise ConfigError(
                f"targets differ in their number of classes: set data.ways to {ways} or less"
            )
        if ways > counts[least] or ways < 2:
            raise ConfigError(f"data.ways = {ways}, but '{least}' has {counts[least]} classes")
        return ways

    def _of_client(self, client: int, owners: NDArray[np.str_]) -> dict[str, ClassImages]:
        """Return the rows of each target that suffice for a task, by class in classification."""
        shots, queries = self._shape(client)
        mine = owners == self.names[client]
        found: dict[str, ClassImages] = {}
        said = []
        for name, target in self.targets.items():
            groups = [
                np.flatnonzero(mine & (target.labels == label)) for label in range(len(target.classes))
            ]
            enough = [group for group in groups if len(group) >= shots + queries]
            if len(enough) >= self.ways:
                found[name] = ClassImages(enough)
            said.append(
                f"{len(enough)} classes of '{name}' with that many rows, of {self.ways}"
                if self.classification
                else f"{len(groups[0])} rows with '{name}'"
            )
        if not found:
            held_out = self.population.split_of(client) != "train"
            prefix = "test_" if held_out else ""
            has = "; ".join(said)
            raise ConfigError(
                f"data.{prefix}shots + data.{prefix}queries = {shots} + {queries}, but client "
                f"'{self.names[client]}' has {has}: lower them, or leave it out: "
                f"data.skip = ['{self.names[client]}']"
            )
        return found

    @staticmethod
    def digest(options: TableOptions) -> str:
        """Return the SHA-256 of the file."""
        return sha256_of(find(options.path, "CSV or Parquet file"))


@dataclass(frozen=True)
class Target:
    """A column to predict.

    Attributes:
        classes: Its values in classification; in regression one, for all rows that have a number.
        labels: ``[N]``, each row's class; -1: the cell is empty.
        values: ``[N]``, standardised, in regression; NaN: the cell is empty.
        scale: Their scale; None in classification.
    """

    classes: tuple[str, ...]
    labels: Indices
    values: Tensor
    scale: Scale | None


def classes_of(table: Cells, name: str, training: Indices) -> Target:  # noqa: ARG001
    """Number the values of a column; `ConfigError` if there are too many or too few."""
    cells = table.column("data.target", name)
    has = filled(cells)
    classes = tuple(sorted({cell for cell, full in zip(cells, has, strict=True) if full}))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ConfigError(
            f"data.target: '{name}' has {len(classes)} different values, but classification needs 2 to "
            f"{MOST_CLASSES}: did you mean data.objective = 'regression'?"
        )
    number = {label: place for place, label in enumerate(classes)}
    labels = np.array(
        [number.get(cell, -1) if full else -1 for cell, full in zip(cells, has, strict=True)]
    )
    return Target(classes, labels, torch.empty(0), None)


def values_of(table: Cells, name: str, training: Indices) -> Target:
    """Standardise a column on the training clients' rows."""
    table.column("data.target", name)
    numbers = table.numbers(name)
    scale = Scale.of(numbers[training])
    values = torch.from_numpy(((numbers - scale.mean) / scale.deviation).astype(np.float32))
    return Target(("",), np.where(np.isnan(numbers), -1, 0), values, scale)


def read(options: TableOptions) -> Cells:
    """Read the table that the options name."""
    path = find(options.path, "CSV or Parquet file")
    if not path.is_file():
        raise DataError(f"data.path: {path} is not a file: name a CSV or Parquet file")
    return read_table(path, options.delimiter, options.decimal)


def _owners(table: Cells, options: TableOptions) -> NDArray[np.str_]:
    cells = table.column("data.client", options.client)
    for row, cell in enumerate(cells):
        if not cell:
            raise DataError(
                f"{table.path}, line {table.lines[row]}: {options.client} is empty: "
                "every row needs a client"
            )
    return np.array([visible(cell) or cell for cell in cells])


def _skipped(owners: NDArray[np.str_], options: TableOptions, path: Path) -> tuple[str, ...]:
    known = set(owners.tolist())
    for name in options.skip:
        if name not in known:
            raise ConfigError(f"data.skip: {path} has no client '{name}': {nearest(name, known)}")
    return options.skip


def _encoder(table: Cells, options: TableOptions, training: Indices) -> Encoder:
    used = {options.client, *options.targets}
    features = options.features
    if features is None:
        features = tuple(name for name in table.columns if name not in used)
    for key, names in (("features", features), ("categories", options.categories)):
        for name in names:
            table.column(f"data.{key}", name)
            if name in used:
                raise ConfigError(f"data.{key}: '{name}' is the client or a target")
    if (
        not options.targets
        or len(set(options.targets)) < len(options.targets)
        or options.client in options.targets
    ):
        raise ConfigError("data.target: name one column, or several different ones, but not data.client")
    if extra := set(options.categories) - set(features):
        raise ConfigError(f"data.categories: '{min(extra)}' is not among data.features")
    if not features:
        raise ConfigError(f"{table.path} has no columns besides the client and the target")
    for name in features:
        if name not in options.categories and (bad := table.parsed(name)[1]) is not None:
            raise DataError(
                f"{table.path}, line {table.lines[bad]}: {name} is {table.columns[name][bad]!r}, not a "
                f"number: correct it, add '{name}' to data.categories, or leave it out of data.features"
            )
    return Encoder.of(table, features, options.categories, training, options.empty == "mean")


def _is_classification(table: Cells, options: TableOptions) -> bool:
    if options.objective != "auto":
        return options.objective == "classification"
    text = [
        name for name in options.targets if table.column("data.target", name) and table.is_text(name)
    ]
    if text and len(text) < len(options.targets):
        raise ConfigError(f"data.target: '{text[0]}' holds text and others numbers: set data.objective")
    return bool(text)
