"""Half-cheetahs: the physics and rewards of gymnasium, and the policy gradient on them."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.learning import Tensors
from fedmeta.tasks import Population, TaskSpec, build_family, stream
from fedmeta.tasks.objective import leaves
from fedmeta.tasks.objectives.half_cheetah import HalfCheetah, Herd, build_robot
from fedmeta.tasks.policy_gradient import ALIVE, DISCOUNT, LOG_PROBABILITY, REWARD

OBJECTIVE = HalfCheetah(TaskSpec("half_cheetah", (17,), 6))
OWN = [14.0, 0.4]
"""Mass and friction of gymnasium's robot."""


class Linear:
    """A linear policy, ``[T, 6, 17]``."""

    batch_norm = False

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        return x @ params["weight"].mT


def policy(tasks: int, size: float = 0.1, dtype: torch.dtype = torch.float32) -> Tensors:
    drawn = torch.randn(6, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * size
    return {"weight": drawn.to(dtype).expand(tasks, -1, -1).contiguous()}


def examples(tasks: int = 2, **options: Any) -> Tensors:
    small = {"episodes": 3, "queries": 1, "horizon": 20} | options
    built = build_family("half_cheetah", small, Population(3, 0, 1), seed=3)
    return dict(built.sample(0, tasks, stream(5)).support)


def starts(count: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).uniform(-0.1, 0.1, (count, 17))


def gymnasiums(start: NDArray[np.float64]) -> Any:
    """Return gymnasium's environment, at a first observation."""
    env = gymnasium.make("HalfCheetah-v5", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    env.set_state(np.concatenate([[0.0], start[:8]]), start[8:])
    return env


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gymnasiums_robot_takes_the_same_steps_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lighter robot steps in between, in the same array, and changes nothing."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings about gymnasium's file there.
    first = starts(3)
    herd = Herd([OWN, [9.0, 0.4], OWN], first)
    envs = {place: gymnasiums(first[place]) for place in (0, 2)}
    torques = np.random.default_rng(2).normal(0, 1.5, (60, 3, 6))
    for actions in torques:
        seen, velocities = herd.step(actions)
        for place, env in envs.items():
            wanted, reward, *_, info = env.step(actions[place])
            assert np.array_equal(seen[place], wanted)
            assert velocities[place] == info["x_velocity"]
            cost = 0.1 * np.square(actions[place]).sum()
            assert reward == pytest.approx(velocities[place] - cost, abs=1e-12)
    assert not np.allclose(seen[0], seen[1], atol=0.1)


def test_a_robot_has_the_mass_and_friction_asked_for() -> None:
    own, heavy = build_robot(*OWN), build_robot(21.0, 0.6)
    assert heavy.body_mass.sum() == pytest.approx(21.0)
    np.testing.assert_allclose(heavy.body_inertia, 1.5 * own.body_inertia)
    assert set(heavy.geom_friction[:, 0]) == {0.6}
    assert set(own.geom_friction[:, 0]) == {0.4}


def test_a_reward_is_the_velocity_towards_the_goal_less_the_cost_of_torques() -> None:
    given = examples(tasks=1)
    given["direction"] = torch.tensor([[1.0, -1.0, 1.0]])
    given = {**given, **{key: given[key][:, :1].expand_as(given[key]) for key in ("x", "noise")}}
    there, back = OBJECTIVE.forward(Linear(), policy(1), given)[0, :2, :, REWARD]
    herd = Herd([given["robot"][0, 0].tolist()], given["x"][0, :1].double().numpy())
    action = given["x"][:, 0] @ policy(1)["weight"][0].T + 0.5 * given["noise"][:, 0, 0]
    _, velocity = herd.step(action.double().numpy())
    cost = 0.1 * float(action.square().sum())
    assert float(there[0]) == pytest.approx(velocity[0] - cost, abs=1e-5)
    assert float(back[0]) == pytest.approx(-velocity[0] - cost, abs=1e-5)
    torch.testing.assert_close(there + back, -2 * _cost(given, 0))
    speeds = {key: value for key, value in given.items() if key != "direction"}
    speeds["speed"] = torch.full((1, 3), 1.5)
    running = OBJECTIVE.forward(Linear(), policy(1), speeds)[0, 0, :, REWARD]
    assert float(running[0]) == pytest.approx(-abs(velocity[0] - 1.5) - cost, abs=1e-5)


def _cost(given: Tensors, episode: int) -> Tensor:
    seen = OBJECTIVE.forward(Linear(), policy(1), given)[0, episode, :, ALIVE + 1 :]
    action = seen @ policy(1)["weight"][0].T + 0.5 * given["noise"][0, episode]
    return 0.1 * action.square().sum(-1)


def test_equal_seeds_give_equal_bits_and_tasks_do_not_depend_on_each_other() -> None:
    once, again = (OBJECTIVE.forward(Linear(), policy(2), examples()) for _ in range(2))
    assert torch.equal(once, again)
    alone = {key: value[1:] for key, value in examples().items()}
    torch.testing.assert_close(OBJECTIVE.forward(Linear(), policy(1), alone), once[1:])
    assert torch.equal(once[..., ALIVE], torch.ones(2, 3, 20))


def test_log_probabilities_are_those_of_the_actions_taken() -> None:
    """Against torch.distributions, up to the constant that has no derivative."""
    given = examples()
    seen = OBJECTIVE.forward(Linear(), policy(2), given)
    means = Linear().forward(policy(2), seen[..., ALIVE + 1 :].flatten(1, 2)).view(2, 3, 20, 6)
    chosen = torch.distributions.Normal(means, 0.5)
    wanted = chosen.log_prob(means + 0.5 * given["noise"]).sum(-1)
    torch.testing.assert_close(
        seen[..., LOG_PROBABILITY] - wanted,
        (seen[..., LOG_PROBABILITY] - wanted)[0, 0, 0].expand(2, 3, 20),
        atol=1e-3,
        rtol=0.0,
    )


def test_the_gradient_is_that_of_the_expected_return() -> None:
    """One step: the reward's mean, over the same draws, is a smooth function of the first action."""
    count = 4000
    given = examples(tasks=1, episodes=count, horizon=1)
    given["x"] = given["x"][:, :1].expand_as(given["x"]).contiguous()
    half = {**given, "noise": torch.cat([given["noise"], -given["noise"]], 1)}
    half |= {key: torch.cat([value] * 2, 1) for key, value in given.items() if key != "noise"}
    double = {key: value.double() for key, value in half.items()}
    start = policy(1, dtype=torch.float64)
    params = leaves(start)
    [slope] = OBJECTIVE.gradient(Linear(), params, double).values.values()
    direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(1)).double()

    def mean_loss(by: float) -> float:
        moved = {"weight": start["weight"] + by * direction}
        return -float(OBJECTIVE.forward(Linear(), moved, double)[..., REWARD].mean())

    wanted = (mean_loss(0.05) - mean_loss(-0.05)) / 0.1
    assert DISCOUNT < 1
    assert float((slope * direction).sum()) == pytest.approx(wanted, rel=0.1)


def test_torques_that_are_not_finite_are_none_and_no_file_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = np.zeros((1, 17))
    wild, still = Herd([[14.0, 0.4]], start), Herd([[14.0, 0.4]], start)
    given = np.array([[np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]])
    seen = wild.step(given)
    expected = still.step(np.array([[0.0, 0.0, 0.0, 1.0, -1.0, 0.0]]))
    assert all(np.array_equal(one, other) for one, other in zip(seen, expected, strict=True))
    assert list(tmp_path.iterdir()) == []
