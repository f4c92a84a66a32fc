"""Few-shot drug discovery: predicts which molecules are active in an assay from a few measurements."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options
from fedmeta.tasks.batch import Examples, TaskBatch
from fedmeta.tasks.data.molecule_files import (
    ACTIVE,
    INACTIVE,
    fingerprints,
    locate_molecules,
    read_assays,
)
from fedmeta.tasks.data.molecule_graphs import MOLECULE, graphs
from fedmeta.tasks.data.sources import digest_of
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.population import Population

Indices = NDArray[np.int64]

TEST_ASSAYS = {"tox21": 3, "sider": 6}
"""The last assays of each file are for testing, this many, as in Altae-Tran et al. 2017."""


class MoleculesOptions(Options):
    """Options of `Molecules`.

    Attributes:
        source: ``tox21``: 7,831 molecules in 12 toxicity assays; ``sider``: 1,427 drugs and 27 groups of
            side effects.
        shots: Molecules of each class (active, inactive) in a support set.
        queries: Query molecules of each class in a training task.
        test_shots: The same for held-out clients; None: as in training.
        test_queries: The same for held-out clients; None: all other molecules of the assay.
        radius: Bonds around each atom that a fingerprint covers.
        bits: Length of a fingerprint.
        features: What describes a molecule: ``ecfp``, its fingerprint; ``graph``, its atoms and bonds,
            for model `mpn`.
        atoms: Most atoms of a graph, without hydrogens. Of a larger molecule, only the first atoms of
            its SMILES text are kept, and the bonds among them.
    """

    source: Literal["tox21", "sider"] = "tox21"
    shots: Annotated[int, Key(arm="training")] = Field(default=5, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=16, ge=1)
    test_shots: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)
    test_queries: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)
    radius: int = Field(default=2, ge=0, le=8)
    bits: int = Field(default=2048, ge=16, le=1 << 16)
    features: Literal["ecfp", "graph"] = "ecfp"
    atoms: int = Field(default=64, ge=1, le=255)

    def shape(self, held_out: bool) -> tuple[int, int | None]:
        """Return shots and queries of each class; None: all other molecules."""
        if not held_out:
            return self.shots, self.queries
        return self.test_shots or self.shots, self.test_queries


class Molecules:
    """Two-way tasks: tell active (1) from inactive (0) molecules; x ``[T, B, bits]``, fingerprints.

    With ``features = "graph"``, x is ``[T, B, atoms, 18]``, see `fedmeta.tasks.graph.GraphShape`, of the
    same molecules.

    A client is a laboratory. A training client holds one or more assays, dealt in the file's order; each
    validation client one of the last training assays; each test client one of the file's last assays,
    which no client trains on. Laboratories measure the same molecules in different assays.

    Papers: Altae-Tran, Ramsundar, Pappu, Pande 2017, "Low Data Drug Discovery with One-Shot Learning";
    Guo et al. 2021, "Few-Shot Graph Learning for Molecular Property Prediction", whose split this is.

    Raises:
        ConfigError: If there are more clients than assays, or an assay has too few molecules.
        DataError: If the file is missing or corrupt, or RDKit is missing.
    """

    Options: ClassVar[type[Options]] = MoleculesOptions

    def __init__(self, options: MoleculesOptions, population: Population, seed: int) -> None:  # noqa: ARG002
        self.options = options
        self.population = population
        self.spec = self.shape(options)
        assays = read_assays(options.source)
        self.names = assays.names
        self.held = deal_assays(len(assays.names), TEST_ASSAYS[options.source], population)
        self.molecules = torch.from_numpy(
            graphs(assays.smiles, options.atoms)
            if options.features == "graph"
            else fingerprints(assays.smiles, options.radius, options.bits)
        )
        readable = self.molecules.flatten(1).any(1).numpy()
        self.classes = [
            [np.flatnonzero((results == kind) & readable) for kind in (INACTIVE, ACTIVE)]
            for results in assays.results.T
        ]
        for client in range(len(population)):
            self._check(client)

    @staticmethod
    def shape(options: MoleculesOptions) -> TaskSpec:
        """Return the shape of tasks, which does not depend on the data."""
        if options.features == "graph":
            return TaskSpec("screening", (options.atoms, MOLECULE.columns), 2, graph=MOLECULE)
        return TaskSpec("screening", (options.bits,), 2)

    @staticmethod
    def digest(options: MoleculesOptions) -> str:
        """Return the SHA-256 of this machine's file."""
        return digest_of([locate_molecules(options.source)])

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks, each from one of the client's assays; float32.

        Support and training queries are balanced, inactive molecules first.
        """
        shots, queries = self.options.shape(self.population.split_of(client) != "train")
        assays = self.held[client]
        drawn = [
            self._draw(assays[k], shots, queries, rng) for k in rng.integers(len(assays), size=count)
        ]
        support, query = (np.stack(half) for half in zip(*drawn, strict=True))
        others = len(self.classes[assays[0]][INACTIVE]) - shots
        return TaskBatch(self._half(support, shots), self._half(query, queries or others))

    def _draw(
        self, assay: int, shots: int, queries: int | None, rng: np.random.Generator
    ) -> tuple[Indices, Indices]:
        mixed = [rng.permutation(molecules) for molecules in self.classes[assay]]
        last = None if queries is None else shots + queries
        return (
            np.concatenate([molecules[:shots] for molecules in mixed]),
            np.concatenate([molecules[shots:last] for molecules in mixed]),
        )

    def _half(self, drawn: Indices, inactive: int) -> Examples:
        """Gather ``[T, B]`` molecules, the first `inactive` of which are inactive."""
        labels = (torch.arange(drawn.shape[1]) >= inactive).long()
        return {
            "x": self.molecules[torch.from_numpy(drawn)].float(),
            "y": labels.repeat(len(drawn), 1),
        }

    def _check(self, client: int) -> None:
        held_out = self.population.split_of(client) != "train"
        shots, queries = self.options.shape(held_out)
        prefix = "test_" if held_out else ""
        for assay in self.held[client]:
            fewest = min(len(molecules) for molecules in self.classes[assay])
            if shots + (queries or 1) > fewest:
                wanted = (
                    f"data.{prefix}shots = {shots} and data.{prefix}queries = {queries or 'all others'}"
                )
                raise ConfigError(
                    f"{wanted}, but assay '{self.names[assay]}' has {fewest} molecules of one class; "
                    f"ask for {fewest} or fewer in all"
                )


def deal_assays(assays: int, test: int, population: Population) -> list[list[int]]:
    """Return the assays of each client; the last `test` are for test clients.

    Raises:
        ConfigError: If there are too many clients, or test clients would share their assays.
    """
    first_test = assays - test
    first_validation = first_test - population.validation
    if population.train > first_validation:
        raise ConfigError(
            f"{population.train} training and {population.validation} validation clients, but only "
            f"{first_test} assays are for them: set clients to {first_test + population.test} or less"
        )
    if population.test > test:
        raise ConfigError(
            f"test_clients = {population.test}, but {test} assays are for testing: set it to {test} or "
            "less"
        )
    train = [
        list(range(client, first_validation, population.train)) for client in range(population.train)
    ]
    return [*train, *([assay] for assay in range(first_validation, first_test + population.test))]
