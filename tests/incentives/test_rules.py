"""Each rule's scores on rounds small enough to do by hand."""

import numpy as np
import pytest

from fedmeta.incentives import Game, IncentiveOptions, Players, ShapleyOptions, score
from tests.incentives.games import additive, game

RNG = np.random.default_rng(0)


def round_of(updates: list[list[float]], tasks: tuple[int, ...] | None = None) -> Game:
    count = len(updates)
    return Game(Players(tuple(range(count)), tasks or (1,) * count, np.array(updates)))


def test_equal_pays_everybody_and_tasks_pay_work() -> None:
    played = round_of([[1.0], [0.0], [-1.0]], (4, 1, 2))
    assert score(IncentiveOptions(rule="equal"), played, RNG) == [1.0, 1.0, 1.0]
    assert score(IncentiveOptions(rule="tasks"), played, RNG) == [4.0, 1.0, 2.0]
    assert score(IncentiveOptions(), played, RNG) == [0.0, 0.0, 0.0]


def test_cosine_compares_with_the_weighted_sum_of_all_others() -> None:
    # The others of 0: (0, 1) + 2 (1, 0) = (2, 1); of 1: 3 (1, 0) + 2 (1, 0) = (5, 0); of 2: (3, 1).
    played = round_of([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], (3, 1, 2))
    found = score(IncentiveOptions(rule="cosine"), played, RNG)
    assert found == pytest.approx([2 / np.sqrt(5), 0.0, 3 / np.sqrt(10)])


def test_cosine_gives_zeros_nothing_and_the_opposite_less() -> None:
    played = round_of([[1.0, 1.0], [0.0, 0.0], [-2.0, -2.0], [1.0, 1.0], [1.0, 1.0]])
    found = score(IncentiveOptions(rule="cosine"), played, RNG)
    assert found[1] == 0.0
    assert found[2] == pytest.approx(-1.0)


def test_cosine_is_fooled_by_a_majority_of_poisoners() -> None:
    played = round_of([[1.0], [-1.0], [-1.0], [-1.0]])
    assert score(IncentiveOptions(rule="cosine"), played, RNG) == pytest.approx([-1.0, 1.0, 1.0, 1.0])


def test_nobody_agrees_with_the_others_where_there_are_none() -> None:
    assert score(IncentiveOptions(rule="cosine"), round_of([[1.0, 2.0]]), RNG) == [0.0]


def test_leaving_one_out_measures_what_is_then_missing() -> None:
    played = game(3, lambda c: {3: 1.0, 2: 0.9 if 0 in c else 0.5}.get(len(c), 0.0))
    assert score(IncentiveOptions(rule="leave-one-out"), played, RNG) == pytest.approx([0.5, 0.1, 0.1])
    assert played.measured == 4


def test_leaving_one_out_finds_both_of_two_twins_dispensable() -> None:
    played = game(2, lambda c: float(bool(c)))
    assert score(IncentiveOptions(rule="leave-one-out"), played, RNG) == [0.0, 0.0]
    assert score(IncentiveOptions(rule="shapley"), played, RNG) == [0.5, 0.5]


def test_small_cohorts_are_valued_exactly_and_others_are_not() -> None:
    weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for exact, coalitions in ((6, 64), (5, None)):
        played = additive(weights)
        options = IncentiveOptions(rule="shapley", shapley=ShapleyOptions(exact=exact, truncation=0.0))
        assert score(options, played, RNG) == pytest.approx(weights)
        assert played.measured == coalitions if coalitions else played.measured < 64


def test_a_round_of_nobody_has_no_scores() -> None:
    for rule in ("equal", "tasks", "cosine", "leave-one-out", "shapley"):
        empty = Game(Players((), (), np.zeros((0, 3))))
        assert score(IncentiveOptions(rule=rule), empty, RNG) == []


def test_a_single_player_has_all_of_the_gain() -> None:
    for rule in ("leave-one-out", "shapley"):
        assert score(IncentiveOptions(rule=rule), additive([2.5]), RNG) == [2.5]


def lengths(updates: list[list[float]], longest: float) -> list[float]:
    count = len(updates)
    short = Players(tuple(range(count)), (1,) * count, np.array(updates)).shortened(longest)
    return [float(np.abs(row).max()) for row in short.updates]


def test_only_updates_longer_than_so_many_medians_are_shortened_to_that() -> None:
    # Lengths but for the zero: 1, 1, 2, 3, 50; their median is 2.
    updates = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [0.0, 50.0]]
    assert lengths(updates, 2.0) == [1.0, 1.0, 0.0, 2.0, 3.0, 4.0]
    assert lengths(updates, 1.0) == [1.0, 1.0, 0.0, 2.0, 2.0, 2.0]
    assert lengths(updates, 0.0) == [1.0, 1.0, 0.0, 2.0, 3.0, 50.0]


def test_a_round_of_zeros_stays_as_it_is() -> None:
    assert lengths([[0.0], [0.0]], 1.0) == [0.0, 0.0]
