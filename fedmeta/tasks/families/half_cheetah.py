"""MuJoCo's half-cheetah: reinforcement-learning tasks, one robot per client."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from fedmeta.options import Key, Options
from fedmeta.tasks.batch import Examples, TaskBatch
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.objectives.half_cheetah import (
    DIRECTION,
    JOINTS,
    OBSERVED,
    ROBOT,
    SPEED,
    TORQUES,
    simulator,
)
from fedmeta.tasks.policy_gradient import NOISE, X
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

FASTEST = 2.0
"""Highest target speed, in m/s."""
PUSH = 0.1
"""Scale of the noise in initial positions and velocities."""


def _range(pair: tuple[float, float]) -> tuple[float, float]:
    low, high = pair
    if not 0 < low <= high:
        raise ValueError("must be the lowest and the highest value, both above 0")
    return pair


Range = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_range)]


class HalfCheetahOptions(Options):
    """Options of `HalfCheetah`.

    Attributes:
        goal: What tasks differ in: ``direction``: forwards or backwards; ``speed``: up to 2 m/s.
        episodes: Episodes of a task to adapt to, in each adaptation step.
        queries: Episodes of a task after adaptation.
        horizon: Steps of an episode, 0.05 s each.
        mass: Lowest and highest mass of a robot, in kg; gymnasium's has 14.
        friction: Lowest and highest sliding friction of a robot on the ground; gymnasium's has 0.4.
    """

    goal: Literal["direction", "speed"] = "direction"
    episodes: int = Field(default=20, ge=1)
    queries: Annotated[int, Key(evaluation=True)] = Field(default=20, ge=1)
    horizon: int = Field(default=200, ge=1)
    mass: Range = (10.0, 18.0)
    friction: Range = (0.3, 0.5)


class HalfCheetah:
    """Run forwards or backwards, or at a given speed, guided only by rewards.

    A client is a robot with its own mass and ground friction, which the policy does not observe. A batch
    holds only the goals, the first observations and the noise of the actions, so that any policy can act
    in the same tasks; see `fedmeta.tasks.objectives.half_cheetah`.

    Paper: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3 and figure 5.

    Raises:
        DataError: If the extra ``gymnasium`` is not installed.
    """

    Options: ClassVar[type[Options]] = HalfCheetahOptions
    spec = TaskSpec("half_cheetah", (OBSERVED,), TORQUES)

    def __init__(self, options: HalfCheetahOptions, population: Population, seed: int) -> None:
        simulator()
        self.options = options
        self.population = population
        self.seed = seed

    @staticmethod
    def digest(options: HalfCheetahOptions) -> str:  # noqa: ARG004
        """Return the versions of the simulators: there are no data files."""
        return simulator()

    def robot(self, client: int) -> tuple[float, float]:
        """Return the mass (kg) and the sliding friction of a client's robot."""
        rng = stream(self.seed, "client", client)
        return rng.uniform(*self.options.mass), rng.uniform(*self.options.friction)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` goals for the client's robot, and each episode's start and noise; float32."""
        if self.options.goal == "direction":
            goals = rng.choice((-1.0, 1.0), count)
        else:
            goals = rng.uniform(0.0, FASTEST, count)
        robot = self.robot(client)
        return TaskBatch(
            self._half(robot, goals, self.options.episodes, rng),
            self._half(robot, goals, self.options.queries, rng),
        )

    def _half(
        self,
        robot: tuple[float, float],
        goals: NDArray[np.float64],
        episodes: int,
        rng: np.random.Generator,
    ) -> Examples:
        shape = (len(goals), episodes)
        # As in gymnasium's HalfCheetah-v5, except that x starts at 0.
        positions = rng.uniform(-PUSH, PUSH, (*shape, JOINTS - 1))
        velocities = PUSH * rng.standard_normal((*shape, JOINTS))
        noise = rng.standard_normal((*shape, self.options.horizon, TORQUES), dtype=np.float32)
        drawn = {
            X: np.concatenate([positions, velocities], -1),
            NOISE: noise,
            ROBOT: np.broadcast_to(robot, (*shape, 2)),
            DIRECTION if self.options.goal == "direction" else SPEED: np.broadcast_to(
                goals[:, None], shape
            ),
        }
        return {name: torch.from_numpy(values.astype(np.float32)) for name, values in drawn.items()}
