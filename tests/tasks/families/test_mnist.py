"""Specifics of MNIST; how clients differ is shared with the digits and tested there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, MissingDataError
from fedmeta.tasks import MNIST, Population, build_family, shape_of_tasks, stream
from fedmeta.tasks.families.mnist import DEVIATION, MEAN
from tests.tasks.conftest import real_file
from tests.tasks.data.mnist_writing import FILE, write_mnist


def family(population: Population = Population(3, 0, 1), seed: int = 0, **options: Any) -> MNIST:  # noqa: B008
    built = build_family("mnist", options, population, seed)
    assert isinstance(built, MNIST)
    return built


def owned(built: MNIST, client: int) -> list[int]:
    images = built.clients[client]
    return [i for row, size in zip(images.table, images.sizes, strict=True) for i in row[:size].tolist()]


def test_every_image_has_one_owner_who_sees_it_turned_by_the_clients_angle(folders: Path) -> None:
    rows = write_mnist(folders)
    built = family()
    assert sorted(i for client in range(4) for i in owned(built, client)) == list(range(400))
    assert sorted(built.angles.tolist()) == [0.0, 90.0, 180.0, 270.0]
    for client, angle in enumerate(built.angles.tolist()):
        for image in owned(built, client)[:3]:
            page = np.rot90(rows[image, :784].reshape(28, 28) / 255.0, k=round(angle / 90))
            seen = built.pool[image, 0].numpy() * DEVIATION + MEAN
            np.testing.assert_allclose(seen, page, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"ways": 7, "shots": 2, "queries": 3}, {"labels": "global"}])
def test_tasks_have_the_shape_that_is_declared_without_the_data(
    folders: Path, options: dict[str, Any]
) -> None:
    told = shape_of_tasks("mnist", options)
    assert told is not None
    assert told.input_shape == (1, 28, 28)
    write_mnist(folders)
    built = family(**options)
    assert built.spec == told
    ways, shots, queries = (
        options.get(key, default)
        for key, default in zip(("ways", "shots", "queries"), (5, 1, 1), strict=True)
    )
    tasks = built.sample(1, 6, stream(0))
    assert tasks.support_x.shape == (6, ways * shots, 1, 28, 28)
    assert tasks.query_x.shape == (6, ways * queries, 1, 28, 28)
    assert int(tasks.query_y.max()) < built.spec.outputs


def test_another_seed_deals_and_turns_otherwise(folders: Path) -> None:
    write_mnist(folders)
    first, same, other = (family(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.pool, same.pool)
    assert not torch.equal(first.pool, other.pool)
    assert not np.array_equal(first.codes, other.codes)


@pytest.mark.parametrize(
    ("population", "options", "message"),
    [
        (Population(3), {"ways": 12}, "data.ways = 12, but there are 10 digits"),
        (Population(4), {"queries": 10}, r"data.shots \+ data.queries = 1 \+ 10, but client 0"),
        (Population(100), {}, "use fewer clients"),
        (Population(3), {"layout": "flat"}, "unknown key 'data.layout'"),
    ],
)
def test_options_that_the_data_cannot_satisfy_are_refused(
    folders: Path, population: Population, options: dict[str, Any], message: str
) -> None:
    write_mnist(folders)
    with pytest.raises(ConfigError, match=message):
        family(population, **options)


def test_without_the_file_the_command_that_fetches_it_is_named(folders: Path) -> None:
    assert list(folders.iterdir()) == []
    with pytest.raises(MissingDataError, match="`fedmeta data fetch mnist`"):
        family()


def test_thirty_clients_of_the_official_file_have_16_or_17_images_of_each_digit() -> None:
    real_file(FILE)
    built = family(Population(24, 0, 6))
    sizes = np.stack([client.sizes for client in built.clients])
    # 500 images over 30 clients.
    assert set(sizes.flatten().tolist()) == {16, 17}
    assert abs(float(built.pool.mean())) < 0.05
