"""The mean over tasks, and its metrics."""

import numpy as np
import pytest

from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.aggregation.mean import Mean
from fedmeta.federation.gate import Update
from fedmeta.federation.tally import MetricMean


def updates(count: int = 40, size: int = 300) -> list[Update]:
    rng = np.random.default_rng(0)
    return [
        Update(i, int(rng.integers(1, 6)), rng.standard_normal(size), 0.0, {"loss": float(rng.random())})
        for i in range(count)
    ]


def test_is_numpys_weighted_average() -> None:
    clients = updates()
    mean = Mean(AggregationOptions(), 1, 300)
    for update in clients:
        mean.add(update)
    expected = np.average([u.vector for u in clients], axis=0, weights=[u.tasks for u in clients])
    np.testing.assert_allclose(mean.result(), expected, rtol=1e-12, atol=1e-14)


def test_small_values_are_not_lost_beside_large_ones() -> None:
    """In float32, 1e8 + 1 is 1e8; the exact mean of 1e8, -1e8 and 3 is 1."""
    mean = Mean(AggregationOptions(), 1, 1)
    for client, value in enumerate([1e8, 3.0, -1e8]):
        mean.add(Update(client, 1, np.array([value]), 0.0, {}))
    assert mean.result().tolist() == [1.0]


def test_a_vector_may_be_overwritten_once_it_was_added() -> None:
    vector = np.ones(3)
    mean = Mean(AggregationOptions(), 1, 3)
    mean.add(Update(0, 2, vector, 0.0, {}))
    vector[:] = np.nan
    assert mean.result().tolist() == [1.0, 1.0, 1.0]


def test_metrics_are_weighted_by_tasks_too() -> None:
    mean = MetricMean()
    mean.add(Update(0, 1, np.zeros(1), 0.0, {"loss": 1.0}))
    mean.add(Update(1, 3, np.zeros(1), 0.0, {"loss": 5.0}))
    assert mean.means() == {"loss": pytest.approx(4.0)}
