"""Streams are drawn by seed, client and place, and drift as they are told to."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskFamily, TaskSpec, build_family, padded
from fedmeta.tasks.streams import Drift, StreamShape, draw_streams

POPULATION = Population(6, 0, 3)
CLIENT = 7


def family(task: str, **data: object) -> TaskFamily:
    return build_family(task, data, POPULATION, 3)


def drawn(
    source: TaskFamily, segments: int = 3, drift: Drift = "tasks", count: int = 4, seed: int = 5
) -> list[TaskBatch]:
    return draw_streams(source, CLIENT, count, StreamShape(segments, drift), seed)


class Ragged:
    """Tasks of one to four support examples, whose inputs are 1, 2, ... and 0 where padded."""

    Options: ClassVar[type[Options]] = Options
    spec = TaskSpec("regression", (1,), 1)
    population = POPULATION

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        def half() -> dict[str, torch.Tensor]:
            sizes = rng.integers(2, 5, size=count).tolist()
            x = [torch.arange(1.0, 1 + size).unsqueeze(1) for size in sizes]
            return dict(padded([{"x": one, "y": one} for one in x], 4))

        return TaskBatch(half(), half())


def test_a_stream_does_not_depend_on_how_many_are_drawn() -> None:
    source = family("digits", ways=3, shots=4, queries=2)
    few, many = drawn(source, count=2), drawn(source, count=5)
    for one, other in zip(few, many, strict=True):
        for (name, tensor), (_, whole) in zip(one.tensors(), other.tensors(), strict=True):
            assert torch.equal(tensor, whole[:2]), name
    other = drawn(source, seed=6)
    assert not torch.equal(other[0].support_x, many[0].support_x[:4])


def test_examples_arrive_in_random_order_with_their_labels() -> None:
    source = family("digits", ways=3, shots=4, queries=2)
    for segment in drawn(source):
        assert segment.support_x.shape[:2] == (4, 12)
        labels = segment.support_y
        assert torch.equal(labels.sort(1).values, torch.arange(3).repeat_interleave(4).expand(4, -1))
        assert len({tuple(row) for row in labels.tolist()}) == 4
        assert torch.equal(segment.query_y, torch.arange(3).repeat_interleave(2).expand(4, -1))


def test_classes_are_those_of_one_task_dealt_to_the_segments() -> None:
    source = family("digits", ways=4, shots=3, queries=2)
    first, second = drawn(source, 2, "classes")
    assert sorted(set(first.support_y.flatten().tolist())) == [0, 1]
    assert sorted(set(second.support_y.flatten().tolist())) == [2, 3]
    assert sorted(set(second.query_y.flatten().tolist())) == [2, 3]
    assert first.support_x.shape[:2] == (4, 6)
    assert first.query_x.shape[:2] == (4, 4)


def test_a_wave_moves_in_equal_steps_within_the_client_s_intervals() -> None:
    """Two points of a sine give its amplitude and phase: a sin(x - p) = u sin x - v cos x."""
    source = family("sinusoid", shots=2, queries=2, test_shots=6, heterogeneity=0.5)
    segments = drawn(source, 5, "slow", count=3)
    found = []
    for segment in segments:
        assert segment.support_x.shape[:2] == (3, 6)
        x, y = segment.support_x.double(), segment.support_y.double()
        u, v = torch.linalg.lstsq(torch.cat([x.sin(), -x.cos()], 2), y).solution.unbind(1)
        found.append(torch.cat([torch.hypot(u, v), torch.atan2(v, u)], 1))
    path = torch.stack(found)
    steps = path.diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-4, rtol=1e-3)
    assert steps.abs().max() > 0.1
    for one, (low, high) in zip(path.unbind(2), source.intervals(CLIENT), strict=True):  # type: ignore[attr-defined]
        assert one.min() > low - 1e-3
        assert one.max() < high + 1e-3


def test_segments_are_cut_to_the_shortest_and_lose_their_padding() -> None:
    segments = drawn(Ragged(), 4, count=6)
    sizes = {one.support_x.shape[1] for one in segments}
    assert sizes == {2}
    for one in segments:
        assert set(one.support) == {"x", "y"}
        assert (one.support_x > 0).all()
        assert set(one.query) == {"x", "y", "mask"}


@pytest.mark.parametrize(
    ("task", "data", "segments", "drift", "message"),
    [
        (
            "digits",
            {"ways": 4},
            3,
            "classes",
            "the 4 classes of a task .* choose from: 2, 4",
        ),
        ("sinusoid", {}, 2, "classes", "drift = 'classes' needs tasks of equal size with a class"),
        ("digits", {}, 2, "slow", "drift = 'slow': only tasks of 'sinusoid' can move"),
    ],
)
def test_what_cannot_drift_so_is_refused(
    task: str, data: dict[str, object], segments: int, drift: Drift, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        drawn(family(task, **data), segments, drift)
    with pytest.raises(ConfigError, match="needs tasks of equal size"):
        drawn(Ragged(), 2, "classes")
