"""Sinusoid regression, MAML's toy family, with clients that differ in amplitude and phase."""

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedmeta.options import Key, Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import many_streams, stream

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, float(np.pi))
INPUT = (-5.0, 5.0)
REMEMBERED = 4096
"""Clients whose intervals are kept: making a random stream takes longer than all the rest of a draw."""

Values = NDArray[np.float32]


class SinusoidOptions(Options):
    """Options of `Sinusoid`.

    Attributes:
        shots: Support points per task.
        queries: Query points per task.
        test_shots: Support points per task for held-out clients; None: as in training.
        test_queries: Query points per task for held-out clients; None: as in training.
        heterogeneity: How much narrower than the full range a client's intervals of amplitude and phase
            are. 0: all clients are alike; 1: each client has a single sine wave.
        partition: Where training clients' waves come from. ``natural``: the client's own intervals;
            ``iid``: for each wave, those of a random training client. ``dirichlet`` does not apply, as
            there is no finite set of waves to deal.
    """

    shots: Annotated[int, Key(arm="training")] = Field(default=10, ge=1)
    queries: Annotated[int, Key(arm="training")] = Field(default=10, ge=1)
    test_shots: Annotated[int | None, Key(evaluation=True)] = Field(default=None, ge=1)
    test_queries: int | None = Field(default=None, ge=1)
    heterogeneity: float = Field(default=0.3, ge=0.0, le=1.0)
    partition: Annotated[Literal["natural", "iid"], Key(arm="any")] = "natural"


class Sinusoid:
    """Regress ``y = a sin(x - p)``, with ``a`` in [0.1, 5], ``p`` in [0, pi] and ``x`` in [-5, 5].

    `sample` returns x and y of shape ``[T, shots or queries, 1]``. A client's intervals are derived from
    the seed, and few are kept, so a population of any size costs nothing.

    Paper: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.1.
    """

    Options: ClassVar[type[Options]] = SinusoidOptions

    def __init__(self, options: SinusoidOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.seed = seed
        self.spec = TaskSpec("regression", (1,), 1)
        self._known: dict[int, Values] = {}

    @staticmethod
    def digest(options: SinusoidOptions) -> str:  # noqa: ARG004
        """Return an empty string: waves are computed, not read."""
        return ""

    def intervals(self, client: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return a client's intervals ``(low, high)`` of amplitude and of phase."""
        return self._intervals(stream(self.seed, "client", client))

    def _intervals(self, rng: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float]]:
        width = 1.0 - self.options.heterogeneity
        if width == 1.0:
            return AMPLITUDE, PHASE
        places = rng.random(2)
        own = []
        for (low, high), place in zip((AMPLITUDE, PHASE), places.tolist(), strict=True):
            start = low + place * (1.0 - width) * (high - low)
            own.append((start, start + width * (high - low)))
        return own[0], own[1]

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` waves of `client`, and points of each; float32."""
        return self.sample_many([client], count, [rng])

    def sample_many(
        self, clients: Sequence[int], count: int, rngs: Sequence[np.random.Generator]
    ) -> TaskBatch:
        """Draw `count` waves of each client, all of one split, and points of each; float32."""
        shots, queries = self._sizes(clients[0])
        self._learn_intervals(clients)
        ranges = np.empty((len(clients), 2, 2, count), dtype=np.float32)
        draws = np.empty((len(clients), count * (2 + shots + queries)), dtype=np.float32)
        for client, rng, own, drawn in zip(clients, rngs, ranges, draws, strict=True):
            own[:] = self._ranges(client, count, rng)
            rng.random(out=drawn, dtype=np.float32)
        units = draws[:, : 2 * count].reshape(len(clients), 2, count)
        waves = units * ranges[:, :, 1] + ranges[:, :, 0]
        x = _scale(draws[:, 2 * count :], INPUT)
        sides = (np.ascontiguousarray(part) for part in (x[:, : count * shots], x[:, count * shots :]))
        return _tasks(waves[:, 0].reshape(-1), waves[:, 1].reshape(-1), sides)

    def drifting(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` waves of `client`, in equal steps from a first one to a last one; float32."""
        shots, queries = self._sizes(client)
        ends = rng.random((2, 2), dtype=np.float32)
        along = np.linspace(0.0, 1.0, count, dtype=np.float32)
        a, p = (
            _scale(start + along * (end - start), interval)
            for (start, end), interval in zip(ends, self.intervals(client), strict=True)
        )
        x = _scale(rng.random(count * (shots + queries), dtype=np.float32), INPUT)
        return _tasks(a, p, (x[: count * shots], x[count * shots :]))

    def _sizes(self, client: int) -> tuple[int, int]:
        """Return the support and query points of a client's tasks."""
        options = self.options
        if self.population.split_of(client) == "train":
            return options.shots, options.queries
        return options.test_shots or options.shots, options.test_queries or options.queries

    def _ranges(self, client: int, count: int, rng: np.random.Generator) -> Values:
        """Return low end and width of amplitude and of phase, ``[2, 2, count]`` or ``[2, 2, 1]``."""
        if self.options.partition == "natural" or self.population.split_of(client) != "train":
            return self._known[client]
        owners = rng.integers(self.population.train, size=count).tolist()
        ends = np.array([self.intervals(owner) for owner in owners], dtype=np.float32)
        ends[:, :, 1] -= ends[:, :, 0]
        return ends.transpose(1, 2, 0)

    def _learn_intervals(self, clients: Sequence[int]) -> None:
        """Derive the low ends and widths, ``[2, 2, 1]``, of clients whose are not known."""
        new = [client for client in clients if client not in self._known]
        if len(self._known) + len(new) > REMEMBERED:
            self._known, new = {}, list(clients)
        if type(self).intervals is Sinusoid.intervals:
            found = map(self._intervals, many_streams(self.seed, "client", last=new))
        else:
            found = map(self.intervals, new)
        for client, intervals in zip(new, found, strict=True):
            own = [[[low], [high - low]] for low, high in intervals]
            self._known[client] = np.array(own, dtype=np.float32)


def _tasks(a: Values, p: Values, points: Iterable[Values]) -> TaskBatch:
    """Return waves of amplitudes ``a [T]`` and phases ``p [T]`` at support and query points."""
    count = len(a)
    a, p = a.reshape(count, 1, 1), p.reshape(count, 1, 1)
    sides: list[Tensor] = []
    for x in points:
        side = x.reshape(count, -1, 1)
        sides += [torch.from_numpy(side), torch.from_numpy(a * np.sin(side - p))]
    return TaskBatch(*sides)


def _scale(unit: Values, interval: tuple[float, float]) -> Values:
    low, high = interval
    return cast("Values", unit * np.float32(high - low) + np.float32(low))
