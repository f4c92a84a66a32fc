"""Cold-start recommendation: predicts a new user's ratings of films from a few of them."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options
from fedmeta.tasks.batch import Examples, TaskBatch
from fedmeta.tasks.data.movielens_files import (
    FILM_FEATURES,
    FILMS,
    USER_FEATURES,
    locate_movielens,
    read_movielens,
)
from fedmeta.tasks.data.sources import digest_of
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.objectives.ratings import CENTRE
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

Indices = NDArray[np.int64]


class MovieLensOptions(Options):
    """Options of `MovieLens`.

    Attributes:
        shots: Ratings in a support set.
        queries: Ratings to predict.
        test_shots: The same as `shots` for held-out clients; None: as in training.
        test_queries: The same as `queries` for held-out clients; None: as in training.
        order: Support set of a task. ``random``: any of the user's ratings, as in MeLU; ``time``: the
            user's first ones. Queries are drawn at random from the others.
        film_ids: Whether x also has a column for each film, so that a first layer learns an embedding
            of films; otherwise films of the same genres and year look alike.
    """

    shots: Annotated[int, Key(arm="training")] = Field(default=20, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=10, ge=1)
    test_shots: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)
    test_queries: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)
    order: Literal["random", "time"] = "random"
    film_ids: bool = False

    def shape(self, held_out: bool) -> tuple[int, int]:
        """Return shots and queries."""
        if not held_out:
            return self.shots, self.queries
        return self.test_shots or self.shots, self.test_queries or self.queries


class MovieLens:
    """Predict the stars that a user gives to a film; MovieLens-100k.

    A client is a user, drawn at random from those with enough ratings for any client's task; held-out
    users are new to the model, though their films may not be. x ``[T, B, 43]``: the film's genres and
    year, the user's occupation, gender and age; with `film_ids` ``[T, B, 1725]``. y ``[T, B, 1]``: stars
    less 3.5.

    Papers: Harper and Konstan 2015, "The MovieLens Datasets: History and Context"; Lee et al. 2019,
    "MeLU: Meta-Learned User Preference Estimator for Cold-Start Recommendation".

    Raises:
        ConfigError: If there are more clients than users with enough ratings.
        DataError: If a file is missing or corrupt.
    """

    Options: ClassVar[type[Options]] = MovieLensOptions

    def __init__(self, options: MovieLensOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.spec = self.shape(options)
        self.data = read_movielens()
        self.histories = self._deal(seed)
        self._films = torch.from_numpy(self.data.films)
        self._users = torch.from_numpy(self.data.users)
        self._targets = torch.from_numpy(self.data.stars - CENTRE).float()

    @staticmethod
    def shape(options: MovieLensOptions) -> TaskSpec:
        """Return the shape of tasks, which does not depend on the data."""
        columns = FILM_FEATURES + USER_FEATURES + (FILMS if options.film_ids else 0)
        return TaskSpec("ratings", (columns,), 1)

    @staticmethod
    def digest(options: MovieLensOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of this machine's files."""
        return digest_of(locate_movielens())

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks from the client's ratings; float32."""
        support, query = self.draw(client, count, rng)
        return TaskBatch(self._half(support), self._half(query))

    def draw(self, client: int, count: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
        """Draw `count` tasks as places in the table: ``[T, shots]`` and ``[T, queries]``."""
        shots, queries = self.options.shape(self.population.split_of(client) != "train")
        history = self.histories[client]
        drawn = np.stack([self._ordered(history, shots, rng)[: shots + queries] for _ in range(count)])
        return drawn[:, :shots], drawn[:, shots:]

    def _ordered(self, history: Indices, shots: int, rng: np.random.Generator) -> Indices:
        if self.options.order == "random":
            return rng.permutation(history)
        return np.concatenate([history[:shots], rng.permutation(history[shots:])])

    def _half(self, drawn: Indices) -> Examples:
        user, film = (torch.from_numpy(rows[drawn]) for rows in (self.data.user, self.data.film))
        columns = [self._films[film], self._users[user]]
        if self.options.film_ids:
            columns.append(torch.nn.functional.one_hot(film, FILMS).float())
        return {"x": torch.cat(columns, dim=2), "y": self._targets[torch.from_numpy(drawn)].unsqueeze(2)}

    def _deal(self, seed: int) -> list[Indices]:
        """Return each client's ratings, oldest first, as places in the table.

        Test users are drawn first, so that they do not depend on the number of training users.
        """
        data, needed = self.data, max(sum(self.options.shape(held_out)) for held_out in (False, True))
        ordered = np.lexsort((data.film, data.time, data.user))
        starts = np.flatnonzero(np.diff(data.user[ordered])) + 1
        enough = [history for history in np.split(ordered, starts) if len(history) >= needed]
        if len(self.population) > len(enough):
            raise ConfigError(
                f"clients = {len(self.population)}, but {len(enough)} users have the {needed} ratings "
                f"of a task: set clients to {len(enough)} or less, or ask for fewer shots or queries"
            )
        drawn = stream(seed, "users").permutation(len(enough))[: len(self.population)]
        return [enough[place] for place in drawn[::-1]]
