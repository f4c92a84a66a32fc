"""Parkinson's telemonitoring: clinical scores from voice measures, where a client is a patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.data.parkinsons_file import (
    LOGGED,
    VOICE,
    read_measurements,
    sum_of_measurements,
)
from fedmeta.tasks.data.sources import how_to_fetch, locate, source_named
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.objectives.clinical_score import POINTS
from fedmeta.tasks.own.clients import Named, choose_named
from fedmeta.tasks.own.table_encoding import Scale
from fedmeta.tasks.partition import PartitionOptions, task_shares
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

SOURCE = "parkinsons"
SAME_VISIT = 0.5
"""Most days between a recording and the next one of the same visit."""

Inputs = Literal["voice", "person", "time"]
_COLUMNS: dict[Inputs, tuple[str, ...]] = {
    "voice": VOICE,
    "person": ("age", "sex"),
    "time": ("test_time",),
}


class ParkinsonsOptions(PartitionOptions):
    """Options of `Parkinsons`: those of the partition, and the shape of a task.

    Attributes:
        target: The score to predict: of the motor examination or of all parts.
        inputs: What to predict it from: ``voice``: the 16 voice measures; ``person``: age and sex;
            ``time``: the days since the patient joined.
        shots: Visits to adapt to, with a recording of each.
        queries: Later visits, with a recording of each.
        test_queries: For validation and test clients; None: as in training.
        start: The visit at which a training task begins: ``first``; or ``any`` that leaves enough. Tasks
            of held-out clients begin at the first.
        test_patients: The numbers of the patients who are test clients, as many as there are; None:
            drawn by the seed.
        validation_patients: Likewise of the validation clients.
    """

    target: Literal["total_UPDRS", "motor_UPDRS"] = "total_UPDRS"
    inputs: tuple[Inputs, ...] = Field(default=("voice",), strict=False, min_length=1)
    shots: int = Field(default=5, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=5, ge=1)
    test_queries: int | None = Field(default=None, ge=1)
    start: Annotated[Literal["first", "any"], Key(arm="any")] = "any"
    test_patients: tuple[int, ...] | None = Field(default=None, strict=False)
    validation_patients: tuple[int, ...] | None = Field(default=None, strict=False)


class Parkinsons:
    """Regress a patient's clinical score on voice measures; x ``[T, visits, inputs]``, standardised.

    A client is a patient, and a task is in the order of time: its support set has one recording, drawn
    at random, of each of a few visits in a row, its query set of later visits. So no visit is in both;
    the about six recordings of a visit have the same score. Measures of jitter, shimmer and noise are
    logarithms. Means and deviations are those of the training patients' recordings; targets are
    differences from the mean score, in units of ten points.

    A `partition` other than ``natural`` deals whole tasks among training clients.

    Paper: Tsanas, Little, McSharry, Ramig 2010, "Accurate Telemonitoring of Parkinson's Disease
    Progression by Noninvasive Speech Tests". Scores between the clinical examinations are interpolated
    there, as straight lines in time.

    Raises:
        ConfigError: If the options do not fit the patients or the population.
        DataError: If the file is missing or corrupt.
    """

    Options: ClassVar[type[Options]] = ParkinsonsOptions

    def __init__(self, options: ParkinsonsOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.spec = self.shape(options)
        path = _path()
        read = read_measurements(path, how_to_fetch(SOURCE, corrupt=path))
        data = {name: np.array(column) for name, column in read.items()}
        patients = data["subject#"].astype(np.int64)
        known = [str(number) for number in np.unique(patients).tolist()]
        named: Named = {"validation": options.validation_patients, "test": options.test_patients}
        self.names = choose_named(known, named, population, seed, "patients")
        training = np.isin(patients, [int(name) for name in self.names[: population.train]])
        self.x = _inputs(data, options.inputs, training)
        scores = data[options.target]
        self.mean = Scale.of(scores[training]).mean
        self.y = torch.from_numpy(((scores - self.mean) / POINTS).astype(np.float32))[:, None]
        days = data["test_time"]
        self.visits = [Visits.of(np.flatnonzero(patients == int(name)), days) for name in self.names]
        for client in range(len(population)):
            self._check(client)
        self.shares = task_shares(population.train, options, stream(seed, "parkinsons", "deal"))

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`."""
        held_out = self.population.split_of(client) != "train"
        owners = [client] * count
        if not held_out and self.shares is not None:
            owners = rng.choice(len(self.shares), count, p=self.shares[client]).tolist()
        shots, queries = self.options.shots, self._queries(client)
        anywhere = self.options.start == "any" and not held_out
        drawn = torch.from_numpy(
            np.stack([self.visits[owner].draw(shots, queries, anywhere, rng) for owner in owners])
        )
        sides = drawn[:, :shots], drawn[:, shots:]
        return TaskBatch(self.x[sides[0]], self.y[sides[0]], self.x[sides[1]], self.y[sides[1]])

    def _queries(self, client: int) -> int:
        if self.population.split_of(client) == "train":
            return self.options.queries
        return self.options.test_queries or self.options.queries

    def _check(self, client: int) -> None:
        visits, queries = len(self.visits[client]), self._queries(client)
        if self.options.shots + queries > visits:
            prefix = "" if self.population.split_of(client) == "train" else "test_"
            raise ConfigError(
                f"data.shots + data.{prefix}queries = {self.options.shots} + {queries}, but patient "
                f"{self.names[client]} has {visits} visits: lower them"
            )

    @staticmethod
    def shape(options: ParkinsonsOptions) -> TaskSpec:
        """Return the shape of tasks, which does not depend on the data."""
        width = sum(len(_COLUMNS[name]) for name in dict.fromkeys(options.inputs))
        return TaskSpec("clinical_score", (width,), 1)

    @staticmethod
    def digest(options: ParkinsonsOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of the file's numbers, however they are written."""
        return sum_of_measurements(_path())


@dataclass(frozen=True)
class Visits:
    """A patient's recordings by visit.

    Attributes:
        rows: The recordings of each visit, in the order of time.
    """

    rows: tuple[NDArray[np.int64], ...]

    @staticmethod
    def of(mine: NDArray[np.int64], days: NDArray[np.float64]) -> "Visits":
        """Group a patient's recordings: a visit ends where the next recording is half a day later."""
        ordered = mine[np.argsort(days[mine], kind="stable")]
        ends = np.flatnonzero(np.diff(days[ordered]) > SAME_VISIT) + 1
        return Visits(tuple(np.split(ordered, ends)))

    def __len__(self) -> int:
        return len(self.rows)

    def draw(
        self, shots: int, queries: int, anywhere: bool, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw a recording of each of `shots` visits in a row, and of `queries` later ones."""
        first = int(rng.integers(len(self) - shots - queries + 1)) if anywhere else 0
        after = first + shots
        later = after + np.sort(rng.permutation(len(self) - after)[:queries])
        chosen = [*range(first, after), *later.tolist()]
        return np.array([self.rows[visit][rng.integers(len(self.rows[visit]))] for visit in chosen])


def _inputs(
    data: Mapping[str, NDArray[np.float64]], inputs: Sequence[Inputs], training: NDArray[np.bool_]
) -> torch.Tensor:
    """Return standardised inputs ``[N, inputs]``."""
    columns = []
    for name in (name for kind in dict.fromkeys(inputs) for name in _COLUMNS[kind]):
        values = np.log(data[name]) if name in LOGGED else data[name]
        columns.append(Scale.of(values[training]).apply(values))
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _path() -> Path:
    return locate(source_named(SOURCE).files[0].path, SOURCE)
