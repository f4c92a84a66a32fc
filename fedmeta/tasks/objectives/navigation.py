"""2D navigation: a point moves towards a goal."""

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.policy_gradient import PolicyGradient, Step, X

GOAL = "goal"
"""Key of `Examples`: the goal of each episode, ``[T, B, 2]``."""
SPEED = 0.1
"""Largest step along each axis."""
ARRIVED = 0.01
"""Distance from the goal at which an episode ends."""


class Navigation(PolicyGradient):
    """Reward and dynamics of a point that moves towards a goal.

    Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning", section 5.3: the point starts at
    the origin, its actions are velocities clipped to [-0.1, 0.1], the reward is the negative squared
    distance to the goal, and an episode ends within 0.01 of it or after H steps. The model maps a
    position to the mean action in units of 0.1, so that an untrained policy stays near the origin.
    """

    deviation: ClassVar[float] = 0.1
    scale: ClassVar[float] = SPEED

    @override
    def begin(self, examples: Examples) -> Step:
        """Place the points at the start of their episodes."""
        goal, here = examples[GOAL], examples[X]

        def step(action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nonlocal here
            here = here + action.clamp(-SPEED, SPEED)
            distance = (here - goal).square().sum(-1)
            return here, -distance, distance > ARRIVED**2

        return step
