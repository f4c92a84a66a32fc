"""Robust rules, compared with references by hand, and behind the gate."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg
from numpy.typing import NDArray

from fedmeta.errors import ConfigError
from fedmeta.experiment import load_config
from fedmeta.federation import AggregationOptions, Plan, Update
from fedmeta.federation.aggregation import build_aggregator
from fedmeta.federation.aggregation.trimmed_mean import trimmed
from fedmeta.federation.flower import as_server, quiet
from tests.federation.helpers import PLAN, SINUSOID, reply_mod, run_on_grid, without

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


def naive_bulyan(drawn: Vectors, malicious: int) -> Vectors:
    """El Mhamdi et al. 2018, section 4, step by step, with nothing kept between the steps."""
    received = [row.astype(np.float64) for row in drawn]
    theta = len(received) - 2 * malicious
    selected: list[Vectors] = []
    while len(selected) < theta:
        scores = []
        for i, one in enumerate(received):
            others = [float(((one - o) ** 2).sum()) for k, o in enumerate(received) if k != i]
            scores.append(sum(sorted(others)[: max(1, len(received) - malicious - 2)]))
        selected.append(received.pop(scores.index(min(scores))))
    beta = theta - 2 * malicious
    result = np.empty(drawn.shape[1])
    for place in range(drawn.shape[1]):
        column = sorted(float(row[place]) for row in selected)
        # The median is a value y of S that minimises the sum of |z - y|: the lower one of two.
        median = min(column, key=lambda y: (round(sum(abs(z - y) for z in column), 9), y))
        nearest = sorted(column, key=lambda z: (abs(z - median), z))[:beta]
        result[place] = sum(nearest) / beta
    return result


@pytest.mark.parametrize(("count", "malicious"), [(7, 1), (8, 1), (11, 2), (14, 2), (15, 3), (23, 4)])
def test_bulyan_is_the_papers(count: int, malicious: int) -> None:
    rng = np.random.default_rng(count)
    for size in (1, 3, 1500):
        drawn = rng.standard_normal((count, size))
        drawn[:malicious] += 3.0
        found = aggregate(AggregationOptions(rule="bulyan", malicious=malicious), drawn)
        np.testing.assert_allclose(found, naive_bulyan(drawn, malicious), rtol=1e-12, atol=1e-13)


def test_bulyan_by_hand() -> None:
    """n = 7, f = 1: five are selected, each by its n' - 3 nearest of those that are left.

    0, 1, 3, 6, 10, 15, 100. Sums of squares to the nearest 4 of 7: of 0: 1+9+36+100; 1: 1+4+25+81; 3:
    9+4+9+49 = 71; 6: 36+25+9+16 = 86. So 3 goes first. Left are 0, 1, 6, 10, 15, 100 with 3 each: 0:
    137, 1: 1+25+81 = 107, 6: 36+25+16 = 77, so 6 is next. 0, 1, 10, 15, 100 with 2: 0: 101, 1: 82,
    10: 106, so 1. 0, 10, 15, 100 with 1: 10 and 15 tie at 25, and 10 came first. Of 0, 15, 100 each has
    one too, for want of a lesser number: 0 and 15 tie, and 0 came first. The selection 0, 1, 3, 6, 10
    has the median 3; the nearest to it are 3 and 1, then 0 and 6 tie: the lower one counts.
    """
    drawn = np.array([[0.0], [1.0], [3.0], [6.0], [10.0], [15.0], [100.0]])
    found = aggregate(AggregationOptions(rule="bulyan", malicious=1), drawn)
    assert found.tolist() == [pytest.approx(4 / 3)]


def test_bulyan_selects_again_and_again_and_not_once() -> None:
    """Ranked once, as Flower does it, the same scores select others."""
    rng = np.random.default_rng(0)
    differs = 0
    for _ in range(20):
        drawn = rng.standard_normal((11, 2))
        once = drawn[np.argsort(krum_scores(drawn, 2))[:7]]
        expected = naive_bulyan(drawn, 2)
        found = aggregate(AggregationOptions(rule="bulyan", malicious=2), drawn)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        differs += not any(np.allclose(found[0], c) for c in _means_about_median(once[:, 0], 3))
    assert differs


def _means_about_median(column: Vectors, count: int) -> list[float]:
    middle = float(np.median(column))
    return [float(column[np.argsort(np.abs(column - middle))[:count]].mean())]


@pytest.mark.parametrize(("rule", "malicious"), [("median", 0), ("trimmed-mean", 0), ("bulyan", 2)])
def test_where_a_selection_agrees_flowers_result_is_ours(rule: str, malicious: int) -> None:
    """Two updates far off are in neither selection of Bulyan; seven of eleven are then the same."""
    rng = np.random.default_rng(5)
    drawn = rng.standard_normal((11, 300)) * np.linspace(0.1, 20.0, 11)[:, None]
    options = AggregationOptions(rule=rule, malicious=malicious)
    theirs = {
        "median": FedMedian(),
        "trimmed-mean": FedTrimmedAvg(beta=0.2),
        "bulyan": Bulyan(num_malicious_nodes=malicious),
    }[rule]
    with as_server(), quiet():
        replies = [
            Message(
                RecordDict(
                    {
                        "arrays": ArrayRecord({"update": Array(row)}),
                        "metrics": MetricRecord({"num-examples": 1}),
                    }
                ),
                place + 1,
                "train",
            )
            for place, row in enumerate(drawn)
        ]
        arrays, _ = theirs.aggregate_train(1, replies)
    assert arrays is not None
    np.testing.assert_allclose(aggregate(options, drawn), arrays["update"].numpy(), rtol=1e-12)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_the_order_of_the_updates_changes_nothing(rule: str) -> None:
    drawn = vectors()
    shuffled = drawn[np.random.default_rng(1).permutation(len(drawn))]
    options = AggregationOptions(rule=rule, malicious=malicious_for(rule))
    np.testing.assert_allclose(aggregate(options, drawn), aggregate(options, shuffled), rtol=1e-14)


def test_equal_scores_go_by_client() -> None:
    """Two pairs of equal updates: all have a neighbour at distance 0, and the first of them wins."""
    drawn = np.array([[5.0], [9.0], [1.0], [1.0], [5.0]])
    assert aggregate(AggregationOptions(rule="krum", malicious=1), drawn).tolist() == [5.0]
    assert aggregate(AggregationOptions(rule="krum", malicious=1), drawn[::-1]).tolist() == [5.0]
    assert aggregate(AggregationOptions(rule="krum", malicious=1), drawn[2:]).tolist() == [1.0]


def test_close_updates_far_from_zero_are_distinguished() -> None:
    """|x|^2 + |y|^2 - 2xy of values about 1e8 that differ by 1e-3 is noise."""
    offsets = np.array([0.0, 0.3, 0.31, 0.32, 5.0, 9.0])[:, None]
    drawn = 1e8 + 1e-3 * offsets
    assert aggregate(AggregationOptions(rule="krum", malicious=1), drawn).tolist() == [drawn[1, 0]]


def malicious_for(rule: str) -> int:
    return 2 if rule in ("krum", "multi-krum", "bulyan") else 0


@pytest.mark.parametrize("rule", ROBUST)
def test_two_hostile_updates_of_eleven_do_not_turn_the_result(rule: str) -> None:
    options = AggregationOptions(rule=rule, malicious=malicious_for(rule))
    found = aggregate(options, vectors())
    assert found.min() > 0.5
    assert aggregate(AggregationOptions(), vectors()).max() < 0.0, "the mean is turned"


@pytest.mark.parametrize("rule", ROBUST)
def test_a_reply_that_the_gate_refuses_never_reaches_the_rule(rule: str) -> None:
    """One client sends NaN: the median of the others is finite, that of all would not be."""

    def spoil(reply: RecordDict) -> None:
        arrays = reply.array_records["arrays"]
        key, array = next(iter(arrays.items()))
        arrays[key] = Array(np.full_like(array.numpy(), np.nan))

    options = AggregationOptions(rule=rule, malicious=malicious_for(rule))
    plan = replace(PLAN, rounds=2, quorum=11, aggregation=options, cohort=12)
    snapshot, records = run_on_grid(SINUSOID, plan, mods={5: [reply_mod(spoil)]})
    assert [(record.admitted, record.quarantined) for record in records] == [(11, 1), (11, 1)]
    assert all(np.isfinite(value.numpy()).all() for value in snapshot.state.values())


def test_rules_that_could_be_left_with_too_few_updates_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a quorum of at least 11, not 6"):
        Plan(rounds=1, cohort=12, quorum=6, aggregation=AggregationOptions(rule="bulyan", malicious=2))
    settings = {"aggregation.rule": "krum", "aggregation.malicious": 5}
    with pytest.raises(ConfigError, match="needs a quorum of at least 13, not 12"):
        load_config("quickstart", settings)
    assert load_config("quickstart", settings | {"quorum": 13}).aggregation.malicious == 5


@pytest.mark.parametrize(
    ("aggregation", "cohort", "message"),
    [
        ({"malicious": 3}, 12, "malicious has no effect with rule 'mean': it belongs to bulyan, krum, "),
        ({"rule": "median", "trim": 0.1}, 12, "trim has no effect with rule 'median': .* trimmed-mean"),
        ({"rule": "krum", "malicious": 1, "keep": 2}, 12, "keep has no effect with rule 'krum'"),
        ({"rule": "median", "options": {"beta": 0.1}}, 12, "options has no effect .* a Flower strategy"),
        ({"rule": "bulyan"}, 12, "'bulyan' tolerates no malicious client .* = 0: set at least 1"),
        ({"rule": "multi-krum", "keep": 2}, 12, "'multi-krum' tolerates no malicious client"),
        (
            {"rule": "trimmed-mean"},
            3,
            r"trims nothing from a cohort of 3: set trim .* 0\.3334, or set cohort .* 5",
        ),
        (
            {"rule": "trimmed-mean", "trim": 0.05},
            12,
            r"set trim to at least 0\.0834, or set cohort .* 20$",
        ),
        ({"rule": "trimmed-mean", "trim": 0.3}, 2, "trims nothing from a cohort of 2: set cohort .* 4$"),
        ({"rule": "trimmed-mean", "trim": 0.0}, 12, r"trims nothing .*: set trim to at least 0\.0834$"),
        ({"rule": "multi-krum", "malicious": 1, "keep": 12}, 12, "keep = 12 is too large .* at most 11"),
        ({"rule": "krumm"}, 12, "unknown rule 'krumm': did you mean 'krum'"),
    ],
)
def test_a_setting_without_effect_is_refused_in_one_line(
    aggregation: dict[str, object], cohort: int, message: str
) -> None:
    settings = {f"aggregation.{key}": value for key, value in aggregation.items()}
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("quickstart", settings | {"cohort": cohort, "quorum": cohort})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trim", "updates", "cut"), [(0.2, 4, 0), (0.2, 5, 1), (0.29, 100, 29), (0.1, 9, 0)]
)
def test_a_share_is_cut_down_to_whole_updates(trim: float, updates: int, cut: int) -> None:
    assert trimmed(trim, updates) == cut
    drawn = np.random.default_rng(updates).standard_normal((updates, 3))
    expected = np.sort(drawn, axis=0)[cut : updates - cut].mean(axis=0)
    found = aggregate(AggregationOptions(rule="trimmed-mean", trim=trim), drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_first_round_that_trims_nothing_is_logged_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a cohort of 5 one is cut at either end; of the 4 that are left without client 2, nobody."""
    options = AggregationOptions(rule="trimmed-mean")
    plan = replace(PLAN, rounds=4, quorum=1, aggregation=options, cohort=5)
    with caplog.at_level("WARNING"):
        _, records = run_on_grid(SINUSOID, plan, without(2))
    short = [record.round for record in records if record.admitted < 5]
    said = [line for line in caplog.messages if "trims nothing" in line]
    assert len(short) > 1
    assert said == [
        f"round {short[0]}: aggregation.trim = 0.2 trims nothing from 4 updates: "
        "using their plain mean (logged once)"
    ]


def test_rewards_that_measure_means_need_the_mean() -> None:
    with pytest.raises(ConfigError, match=r"it needs aggregation\.rule = 'mean'"):
        load_config("incentives", {"aggregation.rule": "median"})
