"""2D navigation: the return of episodes, and its policy gradient of any order."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Network, Objective, Tensors

X, GOAL, NOISE = "x", "goal", "noise"
"""Names of a half's tensors: where each of B episodes begins and should end, ``[T, B, 2]`` both; and the
standard normal draws behind its H actions, ``[T, B, H, 2]``."""
DEVIATION = 0.1
"""Standard deviation of actions around the policy's mean."""
SPEED = 0.1
"""Largest step along each axis."""
ARRIVED = 0.01
"""Distance from the goal at which an episode ends."""
DISCOUNT = 0.99
LOG_PROBABILITY, REWARD, ALIVE = range(3)
"""Places in the last axis of a prediction; x and y of the position before the action follow."""
RIDGE = 1e-5


class Navigation(Objective):
    """A point moves towards a goal; what is learned is the policy, and examples are episodes.

    Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning", section 5.3: the point starts at
    the origin, its actions are velocities clipped to [-0.1, 0.1], the reward is the negative squared
    distance to the goal, and an episode ends within 0.01 of it or after H steps. The model maps a
    position to the mean action in units of 0.1, so that a policy drawn at random stays near the origin.

    A prediction is the episodes themselves, ``[T, B, H, 5]`` by episode and step, see `LOG_PROBABILITY`.
    Every policy acts in its own episodes, so every inner step sees new ones.

    The loss is the negative mean discounted return, divided by H. It is written so that a derivative of
    any order estimates that of the expected return, as rewards alone are not differentiated: DiCE
    (Foerster et al. 2018, "DiCE: The Infinitely Differentiable Monte Carlo Estimator", equations 6 and
    8), with a linear baseline (Duan et al. 2016, "Benchmarking Deep Reinforcement Learning for
    Continuous Control", section 5).
    """

    measures: ClassVar[Mapping[str, Measure]] = {"return": Measure(higher_is_better=True)}

    @override
    def forward(
        self,
        model: Network,
        params: Tensors,
        examples: Examples,
        support_x: Tensor | None = None,
        *,
        once: bool = False,
    ) -> Tensor:
        """Act by a policy per task, and return the episodes; only log-probabilities have a graph."""
        with torch.no_grad():
            positions, actions, rewards, alive = self._act(model, params, examples)
        tasks, episodes, steps, _ = actions.shape
        means = super().forward(model, params, {X: positions.flatten(1, 2)}, once=once)
        error = (actions - SPEED * means.view_as(actions)) / DEVIATION
        log_probability = -0.5 * error.square().sum(-1)
        seen = torch.stack([log_probability, rewards, alive], -1)
        return torch.cat([seen, positions.view(tasks, episodes, steps, 2)], -1)

    @override
    def loss(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the negative mean discounted reward of a step, differentiable any number of times."""
        alive, log_probability = prediction[..., ALIVE], prediction[..., LOG_PROBABILITY]
        log_probability = log_probability * alive
        steps = torch.arange(alive.shape[2], device=alive.device)
        discount = DISCOUNT ** steps.to(alive.dtype)
        rewards = prediction[..., REWARD].detach() * alive * discount
        with torch.no_grad():
            baseline = fitted_baseline(prediction, _sums_to_come(rewards)) * alive
        total = _one(log_probability.cumsum(-1)) * rewards + (1 - _one(log_probability)) * baseline
        return -total.mean((-1, -2))

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the mean over episodes of the summed rewards, without discount."""
        return {"return": (prediction[..., REWARD] * prediction[..., ALIVE]).sum(-1).mean(-1)}

    def _act(
        self, model: Network, params: Tensors, examples: Examples
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return positions and actions ``[T, B, H, 2]``, rewards and which steps count ``[T, B, H]``."""
        goal, noise = examples[GOAL], examples[NOISE]
        here = examples[X]
        still = torch.ones_like(here[..., 0])
        seen = []
        for step in range(noise.shape[2]):
            mean = SPEED * super().forward(model, params, {X: here})
            action = mean + DEVIATION * noise[:, :, step]
            there = here + action.clamp(-SPEED, SPEED)
            distance = (there - goal).square().sum(-1)
            seen.append((here, action, -distance, still))
            still = still * (distance > ARRIVED**2)
            here = there
        positions, actions, rewards, alive = (torch.stack(one, 2) for one in zip(*seen, strict=True))
        return positions, actions, rewards, alive


def fitted_baseline(prediction: Tensor, to_come: Tensor) -> Tensor:
    """Fit the discounted rewards to come ``[T, B, H]`` by ridge regression, one per task.

    Features are the position, its square, and powers 0 to 3 of the time (Duan et al. 2016, section 5).
    """
    at = prediction[..., ALIVE + 1 :].double()
    alive = prediction[..., ALIVE].double().unsqueeze(-1)
    time = torch.linspace(0.0, 1.0, at.shape[2], dtype=at.dtype, device=at.device)
    powers = torch.stack([time**k for k in range(4)], -1).expand(*at.shape[:3], -1)
    features = (torch.cat([at, at.square(), powers], -1) * alive).flatten(1, 2)
    target = (to_come.double().unsqueeze(-1) * alive).flatten(1, 2)
    gram = features.mT @ features
    gram.diagonal(dim1=-2, dim2=-1).add_(RIDGE)
    fitted: Tensor = features @ torch.linalg.solve(gram, features.mT @ target)
    return fitted.view(to_come.shape).to(to_come.dtype)


def _one(log_probability: Tensor) -> Tensor:
    """Return 1, whose derivative is that of the log-probability: DiCE's magic box."""
    return (log_probability - log_probability.detach()).exp()


def _sums_to_come(rewards: Tensor) -> Tensor:
    """Return at each step the sum of this and all later rewards."""
    return rewards.flip(-1).cumsum(-1).flip(-1)
