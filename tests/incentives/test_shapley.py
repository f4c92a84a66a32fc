"""Shapley values against known games, brute force and their axioms; GTG-Shapley against exact ones."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.incentives import Coalition, Game, ShapleyOptions, exact_shapley, gtg_shapley
from fedmeta.incentives.rules.shapley import guided_turns
from tests.incentives.games import additive, arbitrary, game, pairwise, players

FULL = ShapleyOptions(truncation=0.0, convergence=1e-9, permutations=4000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_inheritance_problem_of_ibn_ezra() -> None:
    # Aumann 2010, "Some non-superadditive games, and their Shapley values, in the Talmud"; the values
    # are those that the R package CoopGame prints for it.
    claims = (120.0, 60.0, 40.0, 30.0)
    heirs = game(4, lambda c: max((claims[i] for i in c), default=0.0))
    assert exact_shapley(heirs) == pytest.approx([80.83333, 20.83333, 10.83333, 7.5], abs=1e-5)


def test_one_left_glove_and_two_right_ones() -> None:
    # By hand: in 4 of 6 orders the left glove makes the pair, where it is not first; a right one in 1.
    gloves = game(3, lambda c: float(0 in c and len(c) > 1))
    assert exact_shapley(gloves) == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize("seed", range(3))
def test_exact_values_are_means_over_all_orders(seed: int) -> None:
    played = arbitrary(5, seed)
    sums = np.zeros(5)
    for order in permutations(range(5)):
        for place, player in enumerate(order):
            sums[player] += played.value(order[: place + 1]) - played.value(order[:place])
    assert exact_shapley(played) == pytest.approx((sums / 120).tolist())


@pytest.mark.parametrize("seed", range(3))
def test_exact_and_estimated_values_share_out_the_gain(seed: int) -> None:
    played = arbitrary(6, seed)
    gain = played.value(range(6)) - played.value(())
    assert sum(exact_shapley(played)) == pytest.approx(gain)
    few = ShapleyOptions(truncation=0.0, permutations=7)
    assert sum(gtg_shapley(played, few, rng())) == pytest.approx(gain)


def test_a_null_player_is_worth_nothing_and_equal_players_are_worth_the_same() -> None:
    rounds = game(4, lambda c: float(len(set(c) - {2})) ** 2)
    values = exact_shapley(rounds)
    assert values[2] == 0.0
    assert values[0] == pytest.approx(values[1]) == pytest.approx(values[3])
    assert gtg_shapley(rounds, FULL, rng())[2] == 0.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(-10, 10))
@settings(deadline=None)
def test_any_permutations_are_exact_where_players_do_not_interact(
    weights: list[float], start: float
) -> None:
    options = ShapleyOptions(truncation=0.0, permutations=3)
    found = gtg_shapley(additive(weights, start), options, rng())
    assert found == pytest.approx(weights, abs=1e-9)


@pytest.mark.parametrize("count", [2, 5, 9, 16])
def test_a_turn_and_its_reverse_are_exact_where_players_interact_in_pairs(count: int) -> None:
    played, values = pairwise(count, seed=count)
    options = ShapleyOptions(truncation=0.0, permutations=2 * count)
    assert gtg_shapley(played, options, rng()) == pytest.approx(values)


def test_estimates_come_close_to_exact_values_in_any_game() -> None:
    played = arbitrary(7, seed=4)
    exact = np.array(exact_shapley(played))
    error = np.abs(np.array(gtg_shapley(played, FULL, rng())) - exact)
    # A marginal contribution is a difference of two standard normals; 4,000 of them average to
    # sqrt(2 / 4000) = 0.022 at one standard error.
    assert error.max() < 4 * 0.022


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_player_comes_first_once_in_a_turn_and_last_once_in_the_next(count: int) -> None:
    turns = guided_turns(count, 100, rng())
    for _ in range(3):
        forth, back = next(turns), next(turns)
        assert sorted(forth[:, 0].tolist()) == list(range(count))
        assert sorted(back[:, -1].tolist()) == list(range(count))
        for order in (*forth, *back):
            assert sorted(order.tolist()) == list(range(count))


def counting(count: int, worth: object) -> tuple[Game, list[Coalition]]:
    asked: list[Coalition] = []

    def utility(coalitions: Sequence[Coalition]) -> list[float]:
        asked.extend(coalitions)
        return [worth(coalition) for coalition in coalitions]  # type: ignore[operator]

    return Game(players(count), utility), asked


def test_a_permutation_ends_where_nothing_is_left_to_explain() -> None:
    # Anybody alone brings everything: after the first player of each permutation all is explained.
    played, asked = counting(8, lambda coalition: float(bool(coalition)))
    values = gtg_shapley(played, ShapleyOptions(), rng())
    assert set(asked) == {(), tuple(range(8)), *((i,) for i in range(8))}
    assert sum(values) == pytest.approx(1.0)


def test_without_truncation_all_of_a_permutation_is_measured() -> None:
    played, asked = counting(8, lambda coalition: float(bool(coalition)))
    gtg_shapley(played, ShapleyOptions(truncation=0.0), rng())
    assert max(len(coalition) for coalition in asked[2:]) == 7


def test_a_round_that_changed_nothing_is_worth_nothing_and_costs_two_models() -> None:
    played, asked = counting(6, lambda coalition: 0.01 * len(coalition))
    assert gtg_shapley(played, ShapleyOptions(negligible=0.06), rng()) == [0.0] * 6
    assert asked == [(), (0, 1, 2, 3, 4, 5)]
    played, _ = counting(6, lambda coalition: 0.01 * len(coalition))
    assert gtg_shapley(played, ShapleyOptions(negligible=0.059), rng()) == pytest.approx([0.01] * 6)


def test_sampling_ends_when_the_values_have_settled() -> None:
    played, asked = counting(12, lambda coalition: float(len(coalition)))
    gtg_shapley(played, ShapleyOptions(permutations=100_000), rng())
    # One turn: 12 permutations of 12 players.
    assert len(asked) <= 2 + 12 * 12


@pytest.mark.parametrize("limit", [1, 5, 8, 11])
def test_no_more_permutations_than_allowed(limit: int) -> None:
    played = arbitrary(8, seed=1)
    options = ShapleyOptions(truncation=0.0, convergence=1e-9, permutations=limit)
    gtg_shapley(played, options, rng())
    assert played.measured <= 2 + 7 * limit


def test_the_same_randomness_gives_the_same_values() -> None:
    one, other = (gtg_shapley(arbitrary(6, 2), ShapleyOptions(), rng(9)) for _ in range(2))
    assert one == other


def test_a_coalition_is_measured_once() -> None:
    played, asked = counting(4, lambda coalition: float(len(coalition)))
    exact_shapley(played)
    exact_shapley(played)
    assert len(asked) == len(set(asked)) == 16


def test_a_game_without_a_utility_says_so() -> None:
    with pytest.raises(ValueError, match="without a utility"):
        Game(players(2)).value((0,))
