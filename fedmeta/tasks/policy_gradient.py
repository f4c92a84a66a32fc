"""Reinforcement learning: the return of episodes, and its policy gradient of any order."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Network, Objective, Tensors

X, NOISE = "x", "noise"
"""Keys of `Examples`: the first observation of each of B episodes, ``[T, B, input]``; and the standard
normal noise of its H actions, ``[T, B, H, outputs]``."""
DISCOUNT = 0.99
LOG_PROBABILITY, REWARD, ALIVE = range(3)
"""Indices into the last axis of a prediction; the observation before the action follows."""
RIDGE = 1e-5
CLIPPED = 10.0
"""Observations are clipped to plus or minus this in the baseline."""

Step = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Takes the actions of all episodes, ``[T, B, outputs]``; returns the next observations
``[T, B, input]``, the rewards ``[T, B]``, and which episodes continue ``[T, B]``."""


class PolicyGradient(Objective):
    """Base class of reinforcement learning: the model is a policy, and an example is an episode.

    The model maps an observation to the mean of a normal distribution of actions. Episodes are
    sampled from the current policy, so every inner step sees new ones. All tasks and episodes are
    simulated in lockstep.

    A prediction is the episodes themselves, ``[T, B, H, 3 + input]`` by episode and step, see
    `LOG_PROBABILITY`.

    The loss is the negative mean discounted return, divided by H. Rewards are not differentiated, so it
    is written such that its derivatives of any order estimate those of the expected return: DiCE
    (Foerster et al. 2018, "DiCE: The Infinitely Differentiable Monte Carlo Estimator", equations 6 and
    8), with a linear baseline (Duan et al. 2016, "Benchmarking Deep Reinforcement Learning for
    Continuous Control", section 5). Without `exact`, the second derivative leaves out how an action
    changes the choice of later ones. It is biased, but has far less variance in long episodes: the
    low-variance curvature of Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search", section 5.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"return": Measure(higher_is_better=True)}
    deviation: ClassVar[float]
    """Standard deviation of actions around the policy's mean."""
    scale: ClassVar[float] = 1.0
    """The unit of the model's outputs."""
    exact: ClassVar[bool] = True
    """Whether derivatives beyond the first are unbiased."""

    @abstractmethod
    def begin(self, examples: Examples) -> Step:
        """Start the episodes, and return the function that takes a step in all of them."""

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
        """Run each task's policy and return the episodes; only log-probabilities have a graph."""
        with torch.no_grad():
            seen, actions, rewards, alive = self._act(model, params, examples)
        means = super().forward(model, params, {X: seen.flatten(1, 2)}, once=once)
        error = (actions - self.scale * means.view_as(actions)) / self.deviation
        log_probability = -0.5 * error.square().sum(-1)
        return torch.cat([torch.stack([log_probability, rewards, alive], -1), seen], -1)

    @override
    def loss(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the negative mean discounted reward of a step, differentiable any number of times."""
        alive, log_probability = prediction[..., ALIVE], prediction[..., LOG_PROBABILITY]
        log_probability = log_probability * alive
        steps = torch.arange(alive.shape[2], device=alive.device)
        discount = DISCOUNT ** steps.to(alive.dtype)
        rewards = prediction[..., REWARD].detach() * alive * discount
        with torch.no_grad():
            to_come = _sums_to_come(rewards)
            baseline = fitted_baseline(prediction, to_come) * alive
        if self.exact:
            total = _one(log_probability.cumsum(-1)) * rewards + (1 - _one(log_probability)) * baseline
        else:
            total = rewards + (_one(log_probability) - 1) * (to_come - baseline)
        return -total.mean((-1, -2))

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the mean undiscounted return over episodes."""
        return {"return": (prediction[..., REWARD] * prediction[..., ALIVE]).sum(-1).mean(-1)}

    def _act(
        self, model: Network, params: Tensors, examples: Examples
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the observations, actions, rewards and valid steps of episodes, ``[T, B, H, ...]``."""
        noise, here = examples[NOISE], examples[X]
        still = torch.ones_like(here[..., 0])
        step = self.begin(examples)
        taken = []
        for place in range(noise.shape[2]):
            mean = self.scale * super().forward(model, params, {X: here})
            action = mean + self.deviation * noise[:, :, place]
            there, reward, going_on = step(action)
            taken.append((here, action, reward, still))
            still = still * going_on
            here = there
        seen, actions, rewards, alive = (torch.stack(one, 2) for one in zip(*taken, strict=True))
        return seen, actions, rewards, alive


def fitted_baseline(prediction: Tensor, to_come: Tensor) -> Tensor:
    """Fit the discounted rewards-to-go ``[T, B, H]`` by ridge regression, one per task.

    Features are the clipped observation, its square, and powers 0 to 3 of the time (Duan et al. 2016,
    section 5).
    """
    at = prediction[..., ALIVE + 1 :].double().clamp(-CLIPPED, CLIPPED)
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
    """Return the reward-to-go: at each step the sum of this and all later rewards."""
    return rewards.flip(-1).cumsum(-1).flip(-1)
