"""Returns and their policy gradient, of first and second order, against the exact expected return."""

from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.learning import AlgorithmSetup, Tensors, build_algorithm, expand_state
from fedmeta.tasks import TaskSpec, torch_generator
from fedmeta.tasks.objective import leaves
from fedmeta.tasks.objectives.navigation import GOAL, SPEED, Navigation
from fedmeta.tasks.policy_gradient import ALIVE, DISCOUNT, NOISE, REWARD, X, fitted_baseline

SPEC = TaskSpec("navigation", (2,), 2)
OBJECTIVE = Navigation(SPEC)
NEAR = (0.03, -0.02)
FAR = 0.5
"""x of a goal out of reach in two steps."""


class Constant:
    """A policy whose mean action is its only parameter, ``[T, 2]``."""

    batch_norm = False

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        return params["mean"].unsqueeze(1).expand_as(x)


class Linear(Constant):
    """A policy that also depends on the position: ``mean + weight * x``."""

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        return params["mean"].unsqueeze(1) + params["weight"].unsqueeze(1) * x


def episodes(noise: Any, goal: Any = NEAR) -> Tensors:
    """Episodes of one task; noise ``[B, H, 2]``."""
    draws = torch.as_tensor(noise, dtype=torch.float64)[None]
    goals = torch.tensor(goal, dtype=torch.float64).expand(1, draws.shape[1], 2)
    return {X: torch.zeros_like(goals), GOAL: goals, NOISE: draws}


def test_a_policy_without_noise_walks_straight_and_stops_at_the_goal() -> None:
    """Steps of 0.03, then 0.05 more, which is clipped to nothing: the goal is 0.06 away."""
    params = {"mean": torch.tensor([[0.3, 0.0]], dtype=torch.float64)}
    seen = OBJECTIVE.forward(Constant(), params, episodes(np.zeros((1, 4, 2)), (0.06, 0.0)))
    assert seen[0, 0, :, ALIVE].tolist() == [1.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(seen[0, 0, :2, REWARD], torch.tensor([-0.0009, 0.0]).double())
    torch.testing.assert_close(OBJECTIVE.measure(seen, {})["return"], torch.tensor([-0.0009]).double())


def test_an_action_is_clipped_to_the_largest_step() -> None:
    params = {"mean": torch.tensor([[9.0, -9.0]], dtype=torch.float64)}
    seen = OBJECTIVE.forward(Constant(), params, episodes(np.zeros((1, 3, 2)), (5.0, 5.0)))
    positions = torch.tensor([[0.0, 0.0], [SPEED, -SPEED], [2 * SPEED, -2 * SPEED]]).double()
    torch.testing.assert_close(seen[0, 0, :, ALIVE + 1 :], positions)


def grid(count: int, steps: int) -> np.ndarray:
    """Standard normal draws ``[count^steps, steps]`` of equal weight, on a grid of quantiles."""
    points = [NormalDist().inv_cdf((k + 0.5) / count) for k in range(count)]
    return np.array(list(product(points, repeat=steps)))


def exact_loss(mean: float, weight: float, steps: int) -> float:
    """The expected loss of a policy along the x axis, by integration over its noise."""
    z = np.linspace(-8, 8, 1601)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    here, mass = np.zeros(1), np.ones(1)
    total = 0.0
    for step in range(steps):
        actions = SPEED * (mean + weight * here[:, None]) + Navigation.deviation * z
        here = (here[:, None] + np.clip(actions, -SPEED, SPEED)).ravel()
        mass = (mass[:, None] * density).ravel()
        # The y axis has no noise: the point stays at 0 there.
        total += DISCOUNT**step * float(mass @ ((here - FAR) ** 2))
    return total / steps


@pytest.mark.parametrize("steps", [1, 2])
def test_first_and_second_derivatives_are_those_of_the_expected_return(steps: int) -> None:
    draws = grid(160, steps)
    noise = np.stack([draws, np.zeros_like(draws)], -1)
    at = {"mean": 0.4, "weight": -2.0}
    params = leaves({key: torch.tensor([[value, 0.0]]).double() for key, value in at.items()})
    examples = episodes(noise, (FAR, 0.0))
    loss = OBJECTIVE.loss(OBJECTIVE.forward(Linear(), params, examples), examples).sum()
    assert float(loss.detach()) == pytest.approx(exact_loss(**at, steps=steps), rel=0.01)
    slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    names = ["mean", "weight"] if steps > 1 else ["mean"]  # the first action is at the origin
    for name, slope in zip(names, slopes, strict=False):
        width = 0.1 if name == "mean" else 0.5

        def moved(by: float, name: str = name, width: float = width) -> float:
            return exact_loss(**{**at, name: at[name] + by * width}, steps=steps)

        first = (moved(1) - moved(-1)) / (2 * width)
        second = (moved(1) - 2 * moved(0) + moved(-1)) / width**2
        own = params[name]
        [bend] = torch.autograd.grad(slope[0, 0], [own], retain_graph=True)
        assert float(slope[0, 0].detach()) == pytest.approx(first, rel=0.02)
        assert float(bend[0, 0]) == pytest.approx(second, rel=0.05)


def test_the_baseline_is_ridge_regression_and_lowers_the_variance_of_the_gradient() -> None:
    policy = {"mean": torch.tensor([[0.2, 0.1]]).double()}
    noise = np.random.default_rng(0).standard_normal((400, 20, 2))
    examples = episodes(noise)
    seen = OBJECTIVE.forward(Constant(), policy, examples)
    to_come = torch.rand(1, 400, 20, dtype=torch.float64)
    at, time = seen[0, ..., ALIVE + 1 :].flatten(0, 1).numpy(), np.tile(np.linspace(0, 1, 20), 400)
    features = np.column_stack([at, at**2, *(time**k for k in range(4))])
    alive = seen[0, ..., ALIVE].flatten().numpy()[:, None]
    penalty = np.sqrt(1e-5) * np.eye(8)
    wanted = np.concatenate([to_come[0].flatten().numpy() * alive[:, 0], np.zeros(8)])
    weights, *_ = np.linalg.lstsq(np.concatenate([features * alive, penalty]), wanted, rcond=None)
    found = fitted_baseline(seen, to_come)[0].flatten().numpy()
    np.testing.assert_allclose(found, (features * alive) @ weights, rtol=1e-6, atol=1e-9)

    def spread(with_baseline: bool) -> float:
        slopes = []
        for part in range(40):
            some = {key: value[:, 10 * part : 10 * part + 10] for key, value in examples.items()}
            params = leaves(policy)
            objective = OBJECTIVE if with_baseline else Plain(SPEC)
            slopes.append(objective.gradient(Constant(), params, some).values["mean"][0, 0])
        return float(torch.stack(slopes).std())

    assert spread(with_baseline=True) < 0.7 * spread(with_baseline=False)


class Plain(Navigation):
    """REINFORCE with rewards to come, written out, without a baseline."""

    def loss(self, prediction: Tensor, examples: Any) -> Tensor:
        steps = torch.arange(prediction.shape[2], dtype=prediction.dtype)
        rewards = DISCOUNT**steps * (prediction[..., REWARD] * prediction[..., ALIVE]).detach()
        to_come = torch.stack([rewards[..., k:].sum(-1) for k in range(len(steps))], -1)
        return -(prediction[..., 0] * prediction[..., ALIVE] * to_come).mean((-1, -2))


def test_an_episode_does_not_depend_on_others_of_the_batch() -> None:
    noise = np.random.default_rng(0).standard_normal((6, 5, 2))
    policy = {"mean": torch.tensor([[0.2, 0.1]]).double()}
    whole = OBJECTIVE.forward(Constant(), policy, episodes(noise))
    part = OBJECTIVE.forward(Constant(), policy, episodes(noise[2:3]))
    assert torch.equal(whole[:, 2:3], part)


def test_maml_adapts_by_new_episodes_of_the_adapted_policy() -> None:
    setup = AlgorithmSetup("maml", {"inner_lr": 0.1}, "mlp", {"hidden": [8]})
    learner = build_algorithm(setup, SPEC)
    state = expand_state(learner.init(torch_generator(0, "state")), 1)
    noise = np.random.default_rng(0).standard_normal((20, 10, 2))
    support = {key: value.float() for key, value in episodes(noise).items()}
    before = learner.predict(state, learner.adapt(state, support, 0), support)
    after = learner.predict(state, learner.adapt(state, support, 3), support)
    assert not torch.equal(before[..., ALIVE + 1 :], after[..., ALIVE + 1 :])


class Inexact(Navigation):
    """With curvature of low variance."""

    exact = False


def derivatives(kind: type[Navigation], noise: Any) -> tuple[float, float]:
    """Return the first and second derivative for the mean action along x."""
    params = leaves({"mean": torch.tensor([[0.2, 0.1]]).double()})
    given = episodes(noise)
    objective = kind(SPEC)
    loss = objective.loss(objective.forward(Constant(), params, given), given).sum()
    [slope] = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    [bend] = torch.autograd.grad(slope[0, 0], list(params.values()))
    return float(slope[0, 0].detach()), float(bend[0, 0])


def test_curvature_of_low_variance_has_the_same_gradient_and_is_exact_for_one_action() -> None:
    draw = np.random.default_rng(0).standard_normal
    noise = draw((10, 20, 2))
    assert derivatives(Inexact, noise)[0] == pytest.approx(derivatives(Navigation, noise)[0], rel=1e-6)
    noise = draw((10, 1, 2))
    assert derivatives(Inexact, noise) == pytest.approx(derivatives(Navigation, noise), rel=1e-6)


def test_curvature_of_low_variance_varies_less_in_long_episodes() -> None:
    draws = np.random.default_rng(0).standard_normal((40, 10, 20, 2))
    exact, inexact = (
        np.std([derivatives(kind, noise)[1] for noise in draws]) for kind in (Navigation, Inexact)
    )
    assert inexact < 0.3 * exact
