"""Damped swings: a client owns one pendulum, and a task is one release of it."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskSpec, stream

DAMPING = (0.1, 0.4)
FREQUENCY = (1.5, 2.5)
AMPLITUDE = (0.5, 1.5)


class SwingsOptions(Options):
    """Options of `Swings`.

    Attributes:
        shots: Measured points of a swing, the support set.
        queries: Points of the same swing to predict.
        seconds: Length of the observation.
    """

    shots: int = Field(default=10, ge=1)
    queries: int = Field(default=10, ge=1)
    seconds: float = Field(default=4.0, gt=0)


class Swings:
    """Regress ``y = a exp(-g t) cos(w t + p)`` from a few points ``(t, y)``.

    A client's pendulum has its own damping ``g`` and frequency ``w``, which no other client knows. Each
    release has its own amplitude ``a`` and phase ``p``. `sample` yields t, scaled to [-1, 1], and y, of
    shape ``[T, shots or queries, 1]``.
    """

    Options: ClassVar[type[Options]] = SwingsOptions

    def __init__(self, options: SwingsOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.seed = seed
        self.spec = TaskSpec("regression", input_shape=(1,), outputs=1)

    def pendulum(self, client: int) -> tuple[float, float]:
        """Return the damping (1/s) and the frequency (rad/s) of the client's pendulum."""
        rng = stream(self.seed, "pendulum", client)
        return rng.uniform(*DAMPING), rng.uniform(*FREQUENCY)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Release the client's pendulum `count` times, and measure each swing."""
        damping, frequency = self.pendulum(client)
        amplitude = rng.uniform(*AMPLITUDE, (count, 1, 1))
        phase = rng.uniform(-np.pi, np.pi, (count, 1, 1))
        sides = []
        for points in (self.options.shots, self.options.queries):
            x = rng.uniform(-1.0, 1.0, (count, points, 1))
            t = (x + 1.0) / 2.0 * self.options.seconds
            y = amplitude * np.exp(-damping * t) * np.cos(frequency * t + phase)
            sides += [torch.from_numpy(side.astype(np.float32)) for side in (x, y)]
        return TaskBatch(*sides)
