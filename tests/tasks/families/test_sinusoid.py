import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.tasks import Population, TaskBatch, build_family, drawing_together, stream
from fedmeta.tasks.families.sinusoid import Sinusoid, SinusoidOptions


def family(clients: int = 3, **options: Any) -> Sinusoid:
    built = build_family("sinusoid", options, Population(clients, 0, 1), seed=7)
    assert isinstance(built, Sinusoid)
    return built


def fit(tasks: TaskBatch) -> tuple[np.ndarray, np.ndarray, float]:
    """Recover amplitude and phase: a sin(x - p) = (a cos p) sin x - (a sin p) cos x, a linear fit."""
    x = torch.cat([tasks.support_x, tasks.query_x], 1).double().numpy()[..., 0]
    y = torch.cat([tasks.support_y, tasks.query_y], 1).double().numpy()[..., 0]
    found, worst = [], 0.0
    for xs, ys in zip(x, y, strict=True):
        basis = np.stack([np.sin(xs), -np.cos(xs)], 1)
        (u, v), *_ = np.linalg.lstsq(basis, ys, rcond=None)
        worst = max(worst, float(np.abs(basis @ [u, v] - ys).max()))
        found.append((np.hypot(u, v), np.arctan2(v, u)))
    amplitude, phase = np.array(found).T
    return amplitude, phase, worst


def test_each_task_is_one_sine_wave_within_the_ranges_of_the_maml_paper() -> None:
    """The paper's clients are all alike: heterogeneity 0."""
    tasks = family(heterogeneity=0.0).sample(0, 500, stream(1))
    amplitude, phase, misfit = fit(tasks)
    assert misfit < 1e-5
    assert amplitude.min() >= 0.1 - 1e-5
    assert 4.9 < amplitude.max() <= 5.0 + 1e-5
    assert phase.min() >= -1e-4
    assert 3.1 < phase.max() <= np.pi + 1e-4
    x = torch.cat([tasks.support_x, tasks.query_x], 1)
    assert x.min() >= -5
    assert x.max() <= 5


def test_shapes_follow_shots_and_queries() -> None:
    tasks = family(shots=5, queries=7, test_queries=30).sample(0, 4, stream(1))
    assert tasks.support_x.shape == tasks.support_y.shape == (4, 5, 1)
    assert tasks.query_x.shape == tasks.query_y.shape == (4, 7, 1)
    assert tasks.support_x.dtype == tasks.query_y.dtype == torch.float32
    held_out = family(shots=5, queries=7, test_queries=30).sample(3, 4, stream(1))
    assert held_out.query_x.shape == (4, 30, 1)


def test_clients_stay_within_their_own_narrower_intervals() -> None:
    some = family(heterogeneity=0.75)
    seen = set()
    for client in range(3):
        (low_a, high_a), (low_p, high_p) = some.intervals(client)
        assert high_a - low_a == pytest.approx(0.25 * 4.9)
        assert high_p - low_p == pytest.approx(0.25 * np.pi)
        amplitude, phase, _ = fit(some.sample(client, 100, stream(2)))
        assert low_a - 1e-4 <= amplitude.min() <= amplitude.max() <= high_a + 1e-4
        assert low_p - 1e-3 <= phase.min() <= phase.max() <= high_p + 1e-3
        seen.add((low_a, low_p))
    assert len(seen) == 3


def test_full_heterogeneity_leaves_each_client_one_wave() -> None:
    amplitude, phase, _ = fit(family(heterogeneity=1.0).sample(1, 20, stream(3)))
    assert np.ptp(amplitude) < 1e-4
    assert np.ptp(phase) < 1e-3


def test_sampling_is_a_pure_function_of_seed_client_and_stream() -> None:
    first, second = (family(heterogeneity=0.5).sample(2, 3, stream(4, "train", 9)) for _ in range(2))
    assert torch.equal(first.query_y, second.query_y)
    other = family(heterogeneity=0.5).sample(2, 3, stream(4, "train", 10))
    assert not torch.equal(first.query_y, other.query_y)


@pytest.mark.parametrize(
    "options", [{}, {"partition": "iid"}, {"shots": 3, "heterogeneity": 1.0}], ids=str
)
@pytest.mark.parametrize("count", [1, 3])
def test_clients_drawn_together_have_the_bits_of_each_alone(options: dict[str, Any], count: int) -> None:
    built, clients = family(clients=40, **options), [*range(3, 40), 0]
    together = built.sample_many(clients, count, [stream(6, client) for client in clients])
    alone = [built.sample(client, count, stream(6, client)) for client in clients]
    for (name, one), (_, other) in zip(
        together.tensors(), TaskBatch.concat(alone).tensors(), strict=True
    ):
        assert one.shape == other.shape
        assert one.numpy().tobytes() == other.numpy().tobytes(), name


class OneWave(Sinusoid):
    """Every client's wave has amplitude 1 and phase 0."""

    @override
    def intervals(self, client: int) -> tuple[tuple[float, float], tuple[float, float]]:
        return (1.0, 1.0), (0.0, 0.0)


def test_a_family_that_overrides_the_intervals_draws_from_its_own() -> None:
    made = OneWave(SinusoidOptions(), Population(50), 0)
    tasks = made.sample_many(range(40), 1, [stream(1, client) for client in range(40)])
    torch.testing.assert_close(tasks.query_y, tasks.query_x.sin(), rtol=0.0, atol=1e-6)


def test_a_family_that_overrides_sample_alone_is_drawn_one_client_at_a_time() -> None:
    class Own(Sinusoid):
        def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
            return super().sample(client, count, rng)

    built = family()
    assert drawing_together(built) is built
    assert drawing_together(Own(built.options, built.population, 7)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "data.shots"),
        ({"heterogeneity": 1.5}, "data.heterogeneity"),
        ({"shot": 3}, "unknown key 'data.shot': did you mean 'data.shots'?"),
    ],
)
def test_bad_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as refusal:
        family(**options)
    assert "\n" not in str(refusal.value)


def test_natural_tasks_are_the_ones_of_earlier_versions() -> None:
    """The digest was computed before `partition` existed; thousandths survive another CPU's rounding."""
    built, digest = family(clients=5, heterogeneity=0.4), hashlib.sha256()
    for client in range(6):
        x = built.sample(client, 2, stream(0, "train", 7, client)).query_x.double().numpy()
        digest.update(np.round(x, 3).astype("<f4").tobytes())
        digest.update(np.round(built.intervals(client), 3).astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "69a90d5096045303"


def test_iid_waves_of_a_client_are_those_of_all_training_clients_and_of_no_other() -> None:
    """With full heterogeneity each client has one wave, so that a wave identifies its client."""
    built = family(clients=4, heterogeneity=1.0, partition="iid")
    own = np.array([[low for low, _ in built.intervals(client)] for client in range(5)])
    for client in range(4):
        amplitude, phase, misfit = fit(built.sample(client, 400, stream(8, client)))
        assert misfit < 1e-4
        waves = np.stack([amplitude, phase], 1)
        distance = np.abs(waves[:, None] - own[None]).max(2)
        assert distance.min(1).max() < 1e-3
        # A quarter of 400 each: 100, with a standard deviation of 8.7; the held-out client's never.
        counts = np.bincount(distance.argmin(1), minlength=5)
        assert np.abs(counts[:4] - 100).max() < 5 * 8.7
        assert counts[4] == 0


def test_iid_keeps_what_held_out_clients_draw() -> None:
    one, other = (family(partition=kind).sample(3, 5, stream(9)) for kind in ("iid", "natural"))
    assert torch.equal(one.support_x, other.support_x)
    assert torch.equal(one.query_y, other.query_y)


def test_sinusoids_do_not_support_a_dirichlet_partition() -> None:
    with pytest.raises(ConfigError, match=r"data\.partition: .*'natural' or 'iid'"):
        family(partition="dirichlet")
