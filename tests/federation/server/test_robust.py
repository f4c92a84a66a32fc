"""Robust rules against hand-made references, and behind the gate."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedmeta.errors import ConfigError
from fedmeta.experiment import load_config
from fedmeta.federation import AggregationOptions, Plan, Update
from fedmeta.federation.flower import as_server
from fedmeta.federation.server.robust import build_aggregator
from tests.federation.helpers import PLAN, SINUSOID, reply_mod, run_on_grid

Vectors = NDArray[np.float64]
ROBUST = ("median", "trimmed-mean", "krum", "multi-krum", "bulyan")


def vectors(count: int = 11, size: int = 40) -> Vectors:
    """Updates about a common direction, the last two far off it."""
    rng = np.random.default_rng(3)
    drawn = 1.0 + 0.1 * rng.standard_normal((count, size))
    drawn[-2:] *= -50.0
    return drawn


def aggregate(
    options: AggregationOptions, drawn: Vectors, tasks: Sequence[int] | None = None
) -> Vectors:
    with as_server():
        aggregator = build_aggregator(options, 1, drawn.shape[1])
        buffer = np.empty(drawn.shape[1])
        for client, vector in enumerate(drawn):
            buffer[:] = vector
            aggregator.add(Update(client, tasks[client] if tasks else 1, buffer, 0.0, {"loss": 0.0}))
        return aggregator.result()


def krum_scores(drawn: Vectors, malicious: int) -> list[float]:
    """Blanchard et al. 2017, section 4: summed squared distance to the n - f - 2 nearest others."""
    scores = []
    for one in range(len(drawn)):
        others = [float(((drawn[one] - o) ** 2).sum()) for i, o in enumerate(drawn) if i != one]
        scores.append(sum(sorted(others)[: len(drawn) - malicious - 2]))
    return scores


def test_median_and_trimmed_mean_are_taken_by_coordinate() -> None:
    drawn = vectors()
    found = aggregate(AggregationOptions(rule="median"), drawn)
    np.testing.assert_array_equal(found, np.median(drawn, axis=0))
    found = aggregate(AggregationOptions(rule="trimmed-mean", trim=0.2), drawn)
    np.testing.assert_allclose(found, np.sort(drawn, axis=0)[2:-2].mean(axis=0), rtol=1e-12)


def test_krum_takes_the_update_with_the_nearest_neighbours() -> None:
    drawn = vectors()
    best = drawn[int(np.argmin(krum_scores(drawn, 2)))]
    np.testing.assert_allclose(aggregate(AggregationOptions(rule="krum", malicious=2), drawn), best)


def test_multi_krum_averages_the_best_over_their_tasks() -> None:
    drawn, tasks = vectors(), list(range(1, 12))
    best = np.argsort(krum_scores(drawn, 2))
    for keep, count in ((3, 3), (None, 9)):
        options = AggregationOptions(rule="multi-krum", malicious=2, keep=keep)
        kept = best[:count]
        weights = [tasks[i] for i in kept]
        expected = np.average(drawn[kept], axis=0, weights=weights)
        np.testing.assert_allclose(aggregate(options, drawn, tasks), expected, rtol=1e-12)


def test_bulyan_averages_the_values_closest_to_the_median_of_a_selection() -> None:
    drawn = vectors()
    selection = drawn[np.argsort(krum_scores(drawn, 2))[: 11 - 4]]
    median = np.median(selection, axis=0)
    expected = np.empty(drawn.shape[1])
    for place, middle in enumerate(median):
        column = selection[:, place]
        nearest = column[np.argsort(np.abs(column - middle))[:3]]
        expected[place] = nearest.mean()
    found = aggregate(AggregationOptions(rule="bulyan", malicious=2), drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("rule", ROBUST)
def test_two_hostile_updates_of_eleven_do_not_turn_the_result(rule: str) -> None:
    options = AggregationOptions(rule=rule, malicious=2)  # type: ignore[arg-type]
    found = aggregate(options, vectors())
    assert found.min() > 0.5
    assert aggregate(AggregationOptions(), vectors()).max() < 0.0, "the mean is turned"


@pytest.mark.parametrize("rule", ROBUST)
def test_flowers_strategy_sees_the_admitted_replies_and_no_others(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client sends NaN: it would spoil a median, and must not even be shown to the strategy."""
    seen: list[list[int]] = []
    check = FedAvg._check_and_log_replies

    def look(
        strategy: FedAvg, replies: Sequence[Message], is_train: bool, validate: bool = True
    ) -> tuple[list[Message], list[Message]]:
        seen.append([reply.metadata.dst_node_id - 1 for reply in replies])
        return check(strategy, replies, is_train, validate)

    monkeypatch.setattr(FedAvg, "_check_and_log_replies", look)

    def spoil(reply: RecordDict) -> None:
        arrays = reply.array_records["arrays"]
        key, array = next(iter(arrays.items()))
        arrays[key] = Array(np.full_like(array.numpy(), np.nan))

    options = AggregationOptions(rule=rule)  # type: ignore[arg-type]
    plan = replace(PLAN, rounds=2, quorum=3, aggregation=options, cohort=12)
    snapshot, records = run_on_grid(SINUSOID, plan, mods={5: [reply_mod(spoil)]})
    honest = [client for client in range(12) if client != 5]
    assert seen[0] == honest
    assert [(record.admitted, record.quarantined) for record in records] == [(11, 1), (11, 1)]
    assert all(np.isfinite(value.numpy()).all() for value in snapshot.state.values())


def test_rules_that_could_be_left_with_too_few_updates_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a quorum of at least 11, not 6"):
        Plan(rounds=1, cohort=12, quorum=6, aggregation=AggregationOptions(rule="bulyan", malicious=2))
    settings = {"aggregation.rule": "krum", "aggregation.malicious": 5}
    with pytest.raises(ConfigError, match="needs a quorum of at least 13, not 12"):
        load_config("quickstart", settings)
    assert load_config("quickstart", settings | {"quorum": 13}).aggregation.malicious == 5


def test_rewards_that_measure_means_need_the_mean() -> None:
    with pytest.raises(ConfigError, match=r"it needs aggregation\.rule = 'mean'"):
        load_config("incentives", {"aggregation.rule": "median"})
