"""Half-cheetahs: what clients differ in, and what is refused."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmeta.cli.main import main
from fedmeta.errors import ConfigError, DataError
from fedmeta.tasks import Population, build_family, stream
from fedmeta.tasks.families.half_cheetah import FASTEST, HalfCheetah


def family(seed: int = 7, **options: object) -> HalfCheetah:
    built = build_family("half_cheetah", options, Population(3, 0, 1), seed=seed)
    assert isinstance(built, HalfCheetah)
    return built


def test_a_client_owns_a_robot_within_the_ranges() -> None:
    built = family(mass=[10, 20], friction=[0.3, 0.5])
    robots = [built.robot(client) for client in range(4)]
    assert len(set(robots)) == 4
    assert all(10 <= mass <= 20 and 0.3 <= friction <= 0.5 for mass, friction in robots)
    drawn = built.sample(1, 2, stream(1)).query["robot"]
    torch.testing.assert_close(drawn, torch.tensor(robots[1]).expand(2, 20, 2))


def test_an_episode_has_its_tasks_goal_and_its_own_start_and_noise() -> None:
    tasks = family(episodes=3, queries=2, horizon=5).sample(0, 200, stream(1))
    goals = tasks.support["direction"]
    assert goals.unique().tolist() == [-1.0, 1.0]
    assert abs(float(goals.mean())) < 0.2
    assert torch.equal(goals, goals[:, :1].expand_as(goals))
    assert torch.equal(goals[:, :2], tasks.query["direction"])
    assert tasks.support["noise"].shape == (200, 3, 5, 6)
    starts = tasks.support["x"]
    assert starts.shape == (200, 3, 17)
    assert len(starts.flatten(0, 1).unique(dim=0)) == 600
    positions, velocities = starts[..., :8], starts[..., 8:]
    assert 0.099 < float(positions.abs().max()) <= 0.1
    assert float(velocities.std()) == pytest.approx(0.1, rel=0.05)


def test_speeds_are_up_to_two_metres_a_second() -> None:
    speeds = family(goal="speed", episodes=1, queries=1, horizon=1).sample(0, 500, stream(1))
    drawn = speeds.support["speed"]
    assert 0 <= float(drawn.min()) < 0.1
    assert FASTEST - 0.1 < float(drawn.max()) <= FASTEST


def test_the_same_seed_draws_the_same_tasks_and_another_others() -> None:
    one, two, other = (family(seed).sample(0, 2, stream(9)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.tensors(), two.tensors(), strict=True))
    assert not torch.equal(one.support["robot"], other.support["robot"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "sideways"}, "data.goal"),
        ({"mass": [-1, 3]}, "data.mass"),
        ({"friction": [0.5, 0.3]}, "data.friction"),
        ({"horizon": 0}, "data.horizon"),
    ],
)
def test_a_bad_option_is_refused_by_name_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        family(**options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_the_extra_it_is_said_how_to_get_it_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "fedmeta.tasks.objectives.half_cheetah.find_spec",
        lambda name: None if name == "mujoco" else real(name),
    )
    with pytest.raises(DataError, match=r"not installed: pip install 'fedmeta\[gymnasium\]'"):
        family()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["run", "half-cheetah"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("not installed: pip install 'fedmeta[gymnasium]'")
    assert list(tmp_path.iterdir()) == []
