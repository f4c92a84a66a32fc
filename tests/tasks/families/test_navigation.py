import numpy as np
import pytest
import torch

from fedmeta.tasks import Population, build_family, stream
from fedmeta.tasks.families.navigation import ARENA, Navigation


def family(**options: object) -> Navigation:
    built = build_family("navigation", options, Population(3, 0, 1), seed=7)
    assert isinstance(built, Navigation)
    return built


def test_goals_fill_the_arena_and_an_episode_has_its_tasks_goal() -> None:
    tasks = family(episodes=3, queries=2, horizon=5).sample(0, 400, stream(1))
    goals = tasks.support["goal"]
    assert goals.shape == (400, 3, 2)
    assert torch.equal(goals, goals[:, :1].expand_as(goals))
    assert torch.equal(goals[:, :2], tasks.query["goal"])
    assert -ARENA <= float(goals.min()) < -0.48
    assert 0.48 < float(goals.max()) <= ARENA
    assert tasks.support["noise"].shape == (400, 3, 5, 2)
    assert tasks.query["noise"].shape == (400, 2, 5, 2)
    draws = torch.cat([half["noise"].flatten() for half in (tasks.support, tasks.query)])
    assert abs(float(draws.mean())) < 0.03
    assert float(draws.std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("heterogeneity", [0.75, 1.0])
def test_goals_of_a_client_lie_in_a_square_of_its_own(heterogeneity: float) -> None:
    built = family(heterogeneity=heterogeneity)
    corners = [built.corner(client) for client in range(4)]
    assert len({tuple(corner) for corner in corners}) == 4
    for client, corner in enumerate(corners):
        goals = built.sample(client, 300, stream(1, client)).support["goal"][:, 0].numpy()
        inside = goals - corner
        assert inside.min() >= -1e-6
        assert inside.max() <= (1 - heterogeneity) + 1e-6
        assert np.abs(goals).max() <= ARENA + 1e-6


def test_the_same_stream_draws_the_same_tasks() -> None:
    one, two = (family().sample(0, 2, stream(9)) for _ in range(2))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.tensors(), two.tensors(), strict=True))
