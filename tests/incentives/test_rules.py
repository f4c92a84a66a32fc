"""Each rule's scores on rounds small enough to do by hand."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.errors import ConfigError, RunError
from fedmeta.incentives import (
    Coalition,
    Game,
    IncentiveOptions,
    IncentiveRule,
    Players,
    ShapleyOptions,
    score,
)
from fedmeta.options import parse_options
from tests.incentives.games import additive, game

RNG = np.random.default_rng(0)


def round_of(updates: list[list[float]], tasks: tuple[int, ...] | None = None) -> Game:
    count = len(updates)
    return Game(Players(tuple(range(count)), tasks or (1,) * count, np.array(updates)))


def test_equal_pays_every_client_with_an_update_and_tasks_pays_by_tasks() -> None:
    played = round_of([[1.0], [0.0], [-2.0]], (4, 1, 3))
    assert score(IncentiveOptions(rule="equal"), played, RNG) == [1.0, 0.0, 1.0]
    assert score(IncentiveOptions(rule="tasks"), played, RNG) == [4.0, 0.0, 3.0]
    assert score(IncentiveOptions(), played, RNG) == [0.0, 0.0, 0.0]


def test_rules_that_do_not_read_updates_know_zeros_by_their_norm() -> None:
    played = Game(Players((2, 5, 6), (4, 1, 3), np.zeros((3, 0)), (0.5, 0.0, 1e-30)))
    assert score(IncentiveOptions(rule="equal"), played, RNG) == [1.0, 0.0, 1.0]
    assert score(IncentiveOptions(rule="tasks"), played, RNG) == [4.0, 0.0, 3.0]


def test_cosine_compares_with_the_weighted_sum_of_all_others() -> None:
    # The others of 0: (0, 1) + 2 (1, 0) = (2, 1); of 1: 3 (1, 0) + 2 (1, 0) = (5, 0); of 2: (3, 1).
    played = round_of([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], (3, 1, 2))
    found = score(IncentiveOptions(rule="cosine"), played, RNG)
    assert found == pytest.approx([2 / np.sqrt(5), 0.0, 3 / np.sqrt(10)])


def test_cosine_scores_zeros_zero_and_the_opposite_below() -> None:
    played = round_of([[1.0, 1.0], [0.0, 0.0], [-2.0, -2.0], [1.0, 1.0], [1.0, 1.0]])
    found = score(IncentiveOptions(rule="cosine"), played, RNG)
    assert found[1] == 0.0
    assert found[2] == pytest.approx(-1.0)


def test_cosine_is_fooled_by_a_majority_of_poisoners() -> None:
    played = round_of([[1.0], [-1.0], [-1.0], [-1.0]])
    assert score(IncentiveOptions(rule="cosine"), played, RNG) == pytest.approx([-1.0, 1.0, 1.0, 1.0])


def test_orthogonal_updates_do_not_agree_whatever_the_rounding() -> None:
    # 0.1 x 0.3 and 0.3 x 0.1 are equal, and 3 x 0.1 - 0.3 is 5.6e-17 in floating point.
    played = round_of([[0.1, 0.1, 0.1, -0.3], [1.0, 1.0, 1.0, 1.0]])
    assert score(IncentiveOptions(rule="cosine"), played, RNG) == [0.0, 0.0]


def test_updates_that_cancel_agree_with_no_client_whatever_the_rounding() -> None:
    # (0.1 + 0.7) - 0.1 is not 0.7: taken from the sum of all, something of the others would remain.
    rng = np.random.default_rng(3)
    for _ in range(20):
        big, own = rng.normal(size=(2, 50))
        played = round_of([big.tolist(), own.tolist(), (-big).tolist()])
        assert score(IncentiveOptions(rule="cosine"), played, RNG)[1] == 0.0


RULES = ("equal", "tasks", "leave-one-out", "shapley", "cosine")


def noisy_game(updates: list[list[float]], tasks: tuple[int, ...], seed: int) -> Game:
    """A game whose values are fresh noise at each measurement."""
    rng = np.random.default_rng(seed)
    players = Players(tuple(range(len(updates))), tasks, np.array(updates))
    return Game(players, lambda coalitions: rng.normal(size=len(coalitions)).tolist())


updates = st.lists(
    st.sampled_from([[0.0, 0.0], [-0.0, 0.0], [1.0, 2.0], [-0.5, 3.0]]), min_size=1, max_size=7
)


@given(updates, st.sampled_from(RULES), st.integers(0, 99), st.integers(0, 7))
@settings(deadline=None)
def test_zeros_score_exactly_nothing_under_every_rule(
    updates: list[list[float]], rule: str, seed: int, exact: int
) -> None:
    options = IncentiveOptions(rule=rule, shapley=ShapleyOptions(exact=exact))
    found = score(options, noisy_game(updates, (2,) * len(updates), seed), RNG)
    assert len(found) == len(updates)
    assert all(worth == 0.0 for worth, update in zip(found, updates, strict=True) if not any(update))


@given(updates, st.sampled_from(["leave-one-out", "shapley"]), st.integers(0, 99))
@settings(deadline=None)
def test_equal_updates_with_equal_tasks_score_exactly_the_same(
    updates: list[list[float]], rule: str, seed: int
) -> None:
    tasks = tuple(1 + place % 2 for place in range(len(updates)))
    options = IncentiveOptions(rule=rule, shapley=ShapleyOptions(exact=7))
    found = score(options, noisy_game(updates, tasks, seed), RNG)
    for one, other in combinations(range(len(updates)), 2):
        if updates[one] == updates[other] and tasks[one] == tasks[other]:
            assert found[one] == found[other]


@pytest.mark.parametrize("rule", RULES)
def test_updates_that_cancel_score_nothing(rule: str) -> None:
    # 2 x (0.1, 0.7) + 1 x (0.1, -0.2) - 3 x (0.1, 0.4) is zero but for rounding.
    updates, tasks = [[0.1, 0.7], [0.1, -0.2], [-0.1, -0.4]], (2, 1, 3)
    assert score(IncentiveOptions(rule=rule), noisy_game(updates, tasks, 1), RNG) == [0.0, 0.0, 0.0]


def test_differences_below_the_precision_score_nothing() -> None:
    # The round's own worth is about -2, known to 1e-3 of it: 0.0015 is noise, 0.0025 is not.
    weights = [0.0015, -0.0015, 0.0025, -0.0025, 0.5]

    def worth(coalition: Coalition) -> float:
        return -2.5 + sum(weights[i] for i in coalition)

    players = Players((0, 1, 2, 3, 4), (1,) * 5, np.zeros((5, 0)))
    for rule in ("leave-one-out", "shapley"):
        played = Game(players, lambda coalitions: [worth(c) for c in coalitions], precision=1e-3)
        found = score(IncentiveOptions(rule=rule), played, RNG)
        assert found == pytest.approx([0.0, 0.0, 0.0025, -0.0025, 0.5])
        assert found[:2] == [0.0, 0.0]


def test_a_single_client_agrees_with_no_others() -> None:
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


def test_a_round_without_clients_has_no_scores() -> None:
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


class Lengths(IncentiveRule):
    """By the length of the update."""

    needs_vectors = True

    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [float(length) for length in np.linalg.norm(game.players.updates, axis=1)]


def test_a_users_own_rule_is_named_by_its_dotted_path() -> None:
    options = IncentiveOptions(rule=f"{__name__}:Lengths")
    assert (options.needs_vectors, options.needs_held_out) == (True, False)
    assert score(options, round_of([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]), RNG) == [5.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("shaply", "unknown rule 'shaply': did you mean 'shapley'"),
        ("leave_one_out", "did you mean 'leave-one-out'"),
        (f"{__name__}:round_of", "is not a subclass of fedmeta.incentives.IncentiveRule"),
        (f"{__name__}:Length", "no 'Length' there; did you mean 'Lengths'"),
    ],
)
def test_an_invalid_rule_is_refused_in_one_line(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        _ = parse_options(IncentiveOptions, {"rule": rule}, "incentives").needs_vectors
    assert "\n" not in str(refusal.value)


class Odd(IncentiveRule):
    """Returns, or raises, what a test puts here."""

    answer: Any = ()

    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return list(self.answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, float("nan")], "returned a score that is not finite"),
        ([float("inf"), 0.0], "returned a score that is not finite"),
        ([1.0], "returned 1 scores for 2 clients"),
        (["a", "b"], "failed: ValueError: could not convert string"),
        (KeyError("loss"), "failed: KeyError: 'loss'"),
    ],
)
def test_a_rule_that_goes_wrong_ends_the_run_in_one_line(
    answer: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Odd, "answer", answer)
    with pytest.raises(RunError, match=message) as refusal:
        score(IncentiveOptions(rule=f"{__name__}:Odd"), round_of([[1.0], [2.0]]), RNG)
    assert "\n" not in str(refusal.value)


def test_scores_of_numpys_types_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "answer", np.array([1.0, 2.0], dtype=np.float32))
    found = score(IncentiveOptions(rule=f"{__name__}:Odd"), round_of([[1.0], [2.0]]), RNG)
    assert [type(one) for one in found] == [float, float]
