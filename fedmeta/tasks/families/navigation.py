"""2D navigation: reinforcement-learning tasks with a goal that only the rewards reveal."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.options import Key, Options
from fedmeta.tasks.batch import Examples, TaskBatch
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.objectives.navigation import GOAL
from fedmeta.tasks.policy_gradient import NOISE, X
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

ARENA = 0.5
"""Goals lie in the square [-0.5, 0.5]^2."""


class NavigationOptions(Options):
    """Options of `Navigation`.

    Attributes:
        episodes: Episodes of a task to adapt to, in each adaptation step.
        queries: Episodes of a task after adaptation.
        horizon: Steps after which an episode ends.
        heterogeneity: How much smaller than the arena the square of a client's goals is. 0: all clients
            are alike; 1: each has a single goal.
    """

    episodes: int = Field(default=20, ge=1)
    queries: Annotated[int, Key(evaluation=True)] = Field(default=20, ge=1)
    horizon: int = Field(default=100, ge=1)
    heterogeneity: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=1.0)


class Navigation:
    """Reach a goal in [-0.5, 0.5]^2 from the origin within `horizon` steps, guided only by rewards.

    A client's goals lie in a square of its own within the arena. A batch holds only the goals and the
    noise of the actions, so that any policy can act in the same tasks; see
    `fedmeta.tasks.objectives.navigation`.

    Paper: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3 and figure 4.
    """

    Options: ClassVar[type[Options]] = NavigationOptions
    spec = TaskSpec("navigation", (2,), 2)

    def __init__(self, options: NavigationOptions, population: Population, seed: int) -> None:
        self.options = options
        self.population = population
        self.seed = seed

    @staticmethod
    def digest(options: NavigationOptions) -> str:  # noqa: ARG004
        """Return an empty string: tasks are computed, not read."""
        return ""

    def corner(self, client: int) -> NDArray[np.float64]:
        """Return the lowest x and y of a client's goals."""
        room = 2 * ARENA * self.options.heterogeneity
        corner: NDArray[np.float64] = stream(self.seed, "client", client).random(2) * room - ARENA
        return corner

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` goals of `client`, and the noise of each episode; float32."""
        width = 2 * ARENA * (1 - self.options.heterogeneity)
        goals = (self.corner(client) + width * rng.random((count, 2))).astype(np.float32)
        return TaskBatch(
            self._half(goals, self.options.episodes, rng), self._half(goals, self.options.queries, rng)
        )

    def _half(self, goals: NDArray[np.float32], episodes: int, rng: np.random.Generator) -> Examples:
        shape = (len(goals), episodes, self.options.horizon, 2)
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        goal = torch.from_numpy(goals)[:, None].expand(-1, episodes, -1).contiguous()
        return {X: torch.zeros_like(goal), GOAL: goal, NOISE: noise}
