import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmeta.errors import ConfigError
from fedmeta.tasks.episodes import ClassImages, EpisodeOptions, gather


def ragged() -> ClassImages:
    return ClassImages([np.arange(0, 3), np.arange(3, 10), np.arange(10, 14)])


def test_an_episode_draws_from_distinct_classes_and_no_image_twice() -> None:
    drawn = ragged().draw(500, (2, 1, 2), np.random.default_rng(0))
    assert drawn.shape == (500, 2, 3)
    classes = np.digitize(drawn, [3, 10])
    assert (classes == classes[:, :, :1]).all()
    assert (classes[:, 0, 0] != classes[:, 1, 0]).all()
    assert all(len(set(episode.ravel().tolist())) == 6 for episode in drawn)


def test_every_image_is_equally_often_support_and_query() -> None:
    drawn = ClassImages([np.arange(4), np.arange(4, 8)]).draw(8000, (2, 1, 2), np.random.default_rng(1))
    for place in range(3):
        # Each of 4 images in a quarter of 8,000 draws: 2,000, with a standard deviation of 39.
        counts = np.bincount(drawn[:, :, place].ravel(), minlength=8)
        assert np.abs(counts - 2000).max() < 5 * 39


def test_uncoded_labels_are_uniform_over_classes() -> None:
    drawn = ragged().draw(6000, (3, 1, 1), np.random.default_rng(2))
    first = np.bincount(np.digitize(drawn[:, 0, 0], [3, 10]), minlength=3)
    assert np.abs(first - 2000).max() < 5 * 37


def test_coded_labels_follow_the_cyclic_order_of_the_classes() -> None:
    drawn = ragged().draw(300, (3, 1, 1), np.random.default_rng(3), coded=True)
    orders = {tuple(np.digitize(task[:, 0], [3, 10]).tolist()) for task in drawn}
    assert orders == {(0, 1, 2), (1, 2, 0), (2, 0, 1)}


def test_gathered_tasks_group_examples_by_class_and_scale_bytes_to_one() -> None:
    pool = torch.tensor([[0], [51], [102], [255]], dtype=torch.uint8)
    tasks = gather(pool, np.array([[[3, 1, 0], [2, 0, 1]]]), shots=1)
    assert tasks.support_x.flatten().tolist() == pytest.approx([1.0, 0.4])
    assert tasks.query_x.flatten().tolist() == pytest.approx([0.2, 0.0, 0.0, 0.2])
    assert tasks.support_y.tolist() == [[0, 1]]
    assert tasks.query_y.tolist() == [[0, 0, 1, 1]]


def test_held_out_clients_may_have_another_shape() -> None:
    options = EpisodeOptions(ways=5, shots=1, queries=2, test_ways=7, test_queries=15)
    assert options.shape(held_out=False) == (5, 1, 2)
    assert options.shape(held_out=True) == (7, 1, 15)
    assert options.outputs == 7


def test_a_client_with_too_little_data_is_refused_by_key() -> None:
    with pytest.raises(
        ConfigError, match=r"data.test_ways = 4, but client 2 has 3 classes; set it to 3"
    ):
        ragged().check("client 2", (4, 1, 1), "test_")
    with pytest.raises(
        ConfigError,
        match=r"1 \+ 3, but client 2 has a class of 3 images; data.shots = 1 and data.queries = 2 fit",
    ):
        ragged().check("client 2", (3, 1, 3))
    with pytest.raises(
        ConfigError, match=r"data.test_shots = 2 and data.test_queries = 1 fit, or use fewer"
    ):
        ragged().check("client 2", (3, 20, 1), "test_")
    with pytest.raises(ConfigError, match=r"1 \+ 1, but c has a class of 1 images; use fewer clients"):
        ClassImages([np.arange(1)] * 2).check("c", (2, 1, 1))
    with pytest.raises(ConfigError, match=r"^c has no image of one of its classes; use fewer clients$"):
        ClassImages([np.arange(3), np.arange(0)]).check("c", (2, 1, 1))
    with pytest.raises(ConfigError, match=r"has 0 classes"):
        ClassImages([]).check("client 0", (2, 1, 1))


@given(smallest=st.integers(2, 40), shots=st.integers(1, 40), queries=st.integers(1, 40))
def test_the_shots_and_queries_that_a_refusal_proposes_do_fit(
    smallest: int, shots: int, queries: int
) -> None:
    client = ClassImages([np.arange(smallest)] * 2)
    try:
        client.check("c", (2, shots, queries))
    except ConfigError as refusal:
        proposed = re.search(r"data.shots = (\d+) and data.queries = (\d+) fit", str(refusal))
        assert proposed is not None
        fewer = int(proposed[1]), int(proposed[2])
        client.check("c", (2, *fewer))
        assert 1 <= fewer[0] <= shots
        assert 1 <= fewer[1] <= queries
