import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedmeta.errors import ConfigError
from fedmeta.tasks import Population, TaskBatch, build_family, stream
from fedmeta.tasks.families.digits import DEVIATION, MEAN, Digits


def family(population: Population = Population(24, 0, 6), seed: int = 0, **options: Any) -> Digits:  # noqa: B008
    built = build_family("digits", options, population, seed)
    assert isinstance(built, Digits)
    return built


def owned(digits: Digits, client: int) -> list[int]:
    images = digits.clients[client]
    return [i for row, size in zip(images.table, images.sizes, strict=True) for i in row[:size].tolist()]


def digits_of(tasks: TaskBatch, built: Digits) -> np.ndarray:
    """Which digit every support image shows, found again by its pixels among all images."""
    truth = load_digits().target
    distance = torch.cdist(tasks.support_x.flatten(0, 1), built.pool)
    assert distance.min(1).values.max() < 0.02
    return np.asarray(truth[distance.argmin(1).numpy()]).reshape(len(tasks), -1)


def test_every_image_belongs_to_exactly_one_client_and_clients_are_alike_in_size() -> None:
    built = family()
    everyone = [owned(built, client) for client in range(30)]
    assert sorted(i for mine in everyone for i in mine) == list(range(1797))
    assert {len(mine) for mine in everyone} == {59, 60}
    truth = load_digits().target
    counts = np.array([np.bincount(truth[mine], minlength=10) for mine in everyone])
    assert (np.ptp(counts, axis=0) <= 1).all()


def test_no_two_clients_share_an_orientation_so_held_out_ones_are_unseen() -> None:
    angles = family().angles
    assert sorted(angles.tolist()) == pytest.approx([12.0 * k for k in range(30)])
    assert not np.array_equal(angles, family(seed=1).angles)


def test_a_client_sees_its_images_turned_by_its_angle() -> None:
    built = family(Population(4))
    for client, angle in enumerate(built.angles.tolist()):
        first = owned(built, client)[0]
        page = np.rot90(load_digits().images[first] / 16.0, k=round(angle / 90))
        seen = built.pool[first].view(8, 8).numpy() * DEVIATION + MEAN
        np.testing.assert_allclose(seen, page, atol=1e-5)


@pytest.mark.parametrize("layout", ["flat", "image"])
def test_larger_images_show_the_same_digits(layout: str) -> None:
    """Averaged over the area of a pixel, an enlarged image is about the original."""
    small, large = family(layout="image"), family(layout=layout, size=24)
    assert large.spec.input_shape == ((1, 24, 24) if layout == "image" else (576,))
    assert large.pool.shape[1:] == large.spec.input_shape
    back = torch.nn.functional.avg_pool2d(large.pool.view(-1, 1, 24, 24), 3)
    assert (back - small.pool).abs().mean() < 0.25 * small.pool.abs().mean()
    first, second = (one.sample(3, 2, stream(0, "t")) for one in (small, large))
    assert torch.equal(first.query_y, second.query_y)


def test_a_task_has_the_asked_ways_shots_and_queries() -> None:
    tasks = family(ways=5, shots=1, queries=4).sample(3, 7, stream(0))
    assert tasks.support_x.shape == (7, 5, 64)
    assert tasks.query_x.shape == (7, 20, 64)
    assert tasks.support_y.tolist() == [[0, 1, 2, 3, 4]] * 7
    assert (torch.bincount(tasks.query_y.flatten()) == 28).all()
    assert family(layout="image").spec.input_shape == (1, 8, 8)


def test_labels_name_digits_consistently_in_support_and_query() -> None:
    built = family(ways=5, shots=2, queries=2)
    tasks = built.sample(5, 20, stream(0))
    swapped = TaskBatch(tasks.query_x, tasks.query_y, tasks.support_x, tasks.support_y)
    for support, query in zip(digits_of(tasks, built), digits_of(swapped, built), strict=True):
        assert np.array_equal(support, query)
        assert len(set(support.tolist())) == 5


def test_support_and_query_share_no_image() -> None:
    tasks = family(ways=3, shots=2, queries=3).sample(0, 50, stream(0))
    assert torch.cdist(tasks.support_x, tasks.query_x).min() > 1e-3


def test_labels_run_along_the_clients_own_ring_of_digits() -> None:
    built = family(ways=4)
    for client in (0, 1, 29):
        place = {int(d): i for i, d in enumerate(built.codes[client])}
        for shown in digits_of(built.sample(client, 30, stream(client)), built):
            places = np.array([place[int(d)] for d in shown])
            start = int(places.argmin())
            assert np.array_equal(np.roll(places, -start), np.sort(places))
    assert len({tuple(code) for code in built.codes.tolist()}) == 30


def test_no_digit_has_a_label_that_one_global_classifier_could_learn() -> None:
    built = family(ways=5)
    votes = np.zeros((10, 5))
    for client in range(24):
        for shown in digits_of(built.sample(client, 100, stream(client)), built):
            votes[shown, np.arange(5)] += 1
    # The best constant labelling of digits; a fair coin of five sides gives 0.20.
    assert votes.max(1).sum() / votes.sum() < 0.24


def test_two_builds_draw_the_same_tasks_and_another_seed_draws_others() -> None:
    first, second, other = (family(seed=s).sample(2, 3, stream(1)) for s in (0, 0, 1))
    assert torch.equal(first.query_x, second.query_x)
    assert not torch.equal(first.query_x, other.query_x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 11}, r"data.ways = 11, but there are 10 digits"),
        (
            {"queries": 6},
            r"data.shots \+ data.queries = 1 \+ 6, but client .* has a class of [56] images",
        ),
        ({"test_queries": 9}, r"data.test_shots \+ data.test_queries = 1 \+ 9"),
        ({"way": 3}, "unknown key 'data.way': did you mean 'data.ways'"),
    ],
)
def test_tasks_that_a_client_cannot_draw_are_refused_in_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        family(**options)
    assert "\n" not in str(refusal.value)


def test_too_many_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match="use fewer clients"):
        family(Population(1000))


def test_natural_tasks_are_the_ones_of_earlier_versions() -> None:
    """The digest was computed before `partition` existed: old runs and configs keep their tasks."""
    built = family(ways=5, shots=1, queries=4)
    digest = hashlib.sha256()
    for client in range(30):
        drawn = built.clients[client].draw(2, (5, 1, 4), stream(0, "train", 7, client), coded=True)
        digest.update(drawn.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "b978bde42cfdea6a"


def owners_of(built: Digits, client: int, count: int = 400) -> list[int]:
    """Whose images each of a client's tasks is made of; no task may mix two owners."""
    owner = {
        row.tobytes(): other for other in range(30) for row in built.pool[owned(built, other)].numpy()
    }
    tasks = built.sample(client, count, stream(5, client))
    images = torch.cat([tasks.support_x, tasks.query_x], dim=1)
    found = [{owner[image.tobytes()] for image in task} for task in images.numpy()]
    assert all(len(owners) == 1 for owners in found)
    return [owners.pop() for owners in found]


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_dealing_tasks_anew_leaves_held_out_clients_and_images_alone(partition: str) -> None:
    built, natural = family(partition=partition, alpha=2.0), family()
    for client in range(24, 30):
        one, other = (f.sample(client, 3, stream(1, client)) for f in (built, natural))
        assert torch.equal(one.support_x, other.support_x)
        assert torch.equal(one.query_x, other.query_x)
    assert torch.equal(built.pool, natural.pool)


def test_iid_tasks_are_of_every_training_client_alike_and_of_no_other() -> None:
    built = family(partition="iid")
    owners = np.concatenate([owners_of(built, client) for client in (0, 7, 23)])
    counts = np.bincount(owners, minlength=30)
    assert counts[24:].sum() == 0
    # 1,200 draws of 24: chi-squared with 23 degrees of freedom exceeds 49.7 once in a thousand times.
    assert ((counts[:24] - 50.0) ** 2 / 50.0).sum() < 49.7


def test_the_smaller_alpha_the_more_a_client_sees_of_few_others() -> None:
    def share(alpha: float) -> float:
        """Of a client's tasks, those of its most frequent owner, the mean over some clients."""
        built = family(partition="dirichlet", alpha=alpha)
        drawn = [owners_of(built, client, 100) for client in range(0, 24, 4)]
        return float(np.mean([np.bincount(own).max() / len(own) for own in drawn]))

    assert share(0.01) > 0.8 > 0.2 > share(1000.0)


@pytest.mark.parametrize("partition", ["natural", "iid"])
def test_global_labels_name_the_digit_of_the_same_images(partition: str) -> None:
    built, local = (family(partition=partition, labels=kind) for kind in ("global", "task"))
    assert [one.spec.own_labels for one in (built, local)] == [False, True]
    assert [one.spec.new_classes for one in (built, local)] == [True, False]
    assert built.spec.outputs == 10
    assert local.spec.outputs == 5
    one, other = (f.sample(3, 20, stream(0)) for f in (built, local))
    assert torch.equal(one.support_x, other.support_x)
    assert torch.equal(one.query_x, other.query_x)
    assert one.support_y.dtype == torch.int64
    assert np.array_equal(one.support_y.numpy(), digits_of(one, built))
    swapped = TaskBatch(one.query_x, one.query_y, one.support_x, one.support_y)
    assert np.array_equal(one.query_y.numpy(), digits_of(swapped, built))


def test_held_out_clients_never_have_global_labels() -> None:
    built = family(Population(20, 4, 6), labels="global")
    for client in range(20, 30):
        assert built.sample(client, 2, stream(0)).support_y.tolist() == [[0, 1, 2, 3, 4]] * 2
