"""Recommendation: a client is a user who rates items by a taste of its own."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from ranking import Ranking

from fedmeta.options import Options
from fedmeta.tasks import Examples, Population, TaskBatch, TaskSpec, padded, stream

FEATURES = 6


class TastesOptions(Options):
    """Options of `Tastes`.

    Attributes:
        ratings: Largest number of items in a support set; the smallest is half of it.
        queries: Items to rank.
    """

    ratings: int = Field(default=10, ge=2)
    queries: int = Field(default=10, ge=2)


class Tastes:
    """Rank items by a user's taste, given a few ratings.

    A rating has a part common to all users and one of the user's own: ``r = 2.5 + x . (common + own)``,
    clipped to ``0 .. 5``. A support set has between half of ``ratings`` and all of them.
    """

    Options: ClassVar[type[Options]] = TastesOptions

    def __init__(self, options: TastesOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.seed = seed
        self.spec = TaskSpec(Ranking, input_shape=(FEATURES,), outputs=1)
        self.common = stream(seed, "common").normal(0.0, 0.4, FEATURES)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` sets of items, and rate them by the client's taste."""
        taste = self.common + stream(self.seed, "taste", client).normal(0.0, 0.8, FEATURES)

        def rated(items: int) -> Examples:
            x = rng.standard_normal((items, FEATURES))
            rating = np.clip(2.5 + x @ taste, 0.0, 5.0)
            return {
                "item": torch.from_numpy(x.astype(np.float32)),
                "rating": torch.from_numpy(rating.astype(np.float32)),
            }

        most, queries = self.options.ratings, self.options.queries
        sizes = rng.integers(most // 2, most + 1, count).tolist()
        support = padded([rated(size) for size in sizes], most)
        # Query sets are equally large, so they need no padding and no mask.
        query = [rated(queries) for _ in range(count)]
        return TaskBatch(support, {key: torch.stack([one[key] for one in query]) for key in query[0]})
