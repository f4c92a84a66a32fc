"""Rewards over a whole run: luck evens out, past merit is not paid twice, and a resume pays the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmeta.incentives import IncentiveOptions, RewardAccumulator, allocate
from fedmeta.incentives.rewards import SlashingPolicy

POT = 1000
Settle = Literal["run", "round"]


def payroll(settle: Settle = "run", **options: Any) -> RewardAccumulator:
    return RewardAccumulator(IncentiveOptions(rule="shapley", settle=settle, **options), POT)


rounds = st.lists(
    st.dictionaries(st.integers(0, 6), st.floats(-10, 10), min_size=1), min_size=1, max_size=20
)


@given(rounds)
def test_round_by_round_each_pot_follows_that_rounds_scores_alone(
    rounds: list[dict[int, float]],
) -> None:
    paying = payroll("round")
    for scores in rounds:
        order = sorted(scores)
        expected = dict(zip(order, allocate([scores[c] for c in order], POT), strict=True))
        assert paying.reward(scores) == expected


@pytest.mark.parametrize("settle", ["run", "round"])
def test_the_first_round_is_paid_by_its_scores(settle: Settle) -> None:
    assert payroll(settle).reward({4: 3.0, 2: 1.0, 9: -1.0}) == {2: 250, 4: 750, 9: 0}


def test_lucky_payments_are_offset_later() -> None:
    paying = payroll()
    # Round 1: 7 is lucky. Shares of the round: 1/2 and 1/2.
    assert paying.reward({1: 1.0, 7: 1.0}) == {1: 500, 7: 500}
    # Round 2: shares 3/4 and -1/4; merits 5/4 and 1/4. Of two pots 1 is due 5/6, that is 1667, less
    # the 500 that it has; 7 is due 1/6, that is 333, and has more than that.
    assert paying.reward({1: 3.0, 7: -1.0}) == {1: 1000, 7: 0}
    # Round 3: shares 2/3 and 1/3; merits 23/12 and 7/12. Of three pots 1 is due 2300 less 1500, and 7
    # is due 700 less 500.
    assert paying.reward({1: 2.0, 7: 1.0}) == {1: 800, 7: 200}


def test_clients_with_equal_scores_are_paid_equally_in_every_round() -> None:
    paying = payroll()
    for _ in range(50):
        assert paying.reward({0: 2.0, 1: 1.0, 2: -1.0, 3: 1.0}) == {0: 500, 1: 250, 2: 0, 3: 250}


def test_rounds_weigh_alike_however_much_they_gained() -> None:
    # A run gains much at first and little later, but each round has the same pot.
    early, late = payroll(), payroll()
    for size in (1.0, 1e-3, 1e-6):
        early.reward({0: size, 1: 2 * size})
        late.reward({0: 1.0, 1: 2.0})
    assert early.rewards == late.rewards


def simulate(settle: Settle, length: int = 400) -> dict[str, float]:
    """Honest clients with real merit and much noise, and a free-rider with noise alone."""
    rng = np.random.default_rng(5)
    paying = payroll(settle)
    for _ in range(length):
        honest = rng.normal(1.0, 1.0, 10)
        scores = dict(enumerate(honest.tolist()))
        paying.reward(scores | {10: rng.normal(0.0, 0.3), 11: rng.normal(-0.1, 0.3)})
    mean = np.mean([paying.rewards[client] for client in range(10)])
    return {"noise": paying.rewards[10] / mean, "worse": paying.rewards[11] / mean}


def test_noise_about_zero_is_paid_by_each_round_and_hardly_by_the_run() -> None:
    # By hand: the mean of max(0, N(0, 0.3)) is 0.3 / sqrt(2 pi) = 0.12, that of max(0, N(1, 1)) 1.083.
    assert simulate("round")["noise"] == pytest.approx(0.12 / 1.083, abs=0.03)
    assert simulate("run")["noise"] < 0.03
    assert simulate("run")["worse"] < 0.01


def test_past_merit_is_not_paid_twice() -> None:
    paying = payroll()
    for _ in range(100):
        paying.reward({0: 1.0, 1: 1.0, 2: 1.0})
    before = dict(paying.rewards)
    for _ in range(100):
        # Client 0 has made a name for itself and stops working.
        paying.reward({0: 0.0, 1: 1.0, 2: 1.0})
    assert paying.rewards[0] == before[0]
    assert paying.rewards[1] - before[1] == pytest.approx(50 * POT, rel=0.001)


def test_a_client_that_joins_late_is_paid_like_the_others_from_then_on() -> None:
    paying = payroll()
    for _ in range(100):
        paying.reward({0: 1.0, 1: 1.0})
    for _ in range(100):
        paying.reward({0: 1.0, 1: 1.0, 2: 2.0})
    assert paying.rewards[2] == pytest.approx(50 * POT, rel=0.001)
    assert paying.rewards[0] == pytest.approx(75 * POT, rel=0.001)


def test_a_client_that_was_not_asked_is_paid_its_due_when_it_is() -> None:
    rng = np.random.default_rng(1)
    paying = payroll()
    merit = np.array([1.0, 1.0, 2.0, 4.0, -1.0])
    asked: np.ndarray[Any, Any] = np.zeros(5)
    for _ in range(400):
        cohort = rng.choice(5, 3, replace=False)
        size = np.abs(merit[cohort]).sum()
        asked[cohort] += merit[cohort] / size
        paying.reward({int(c): float(merit[c]) for c in cohort})
    earned = np.array([paying.rewards[c] for c in range(5)]) / sum(paying.rewards.values())
    np.testing.assert_allclose(earned, np.maximum(asked, 0) / np.maximum(asked, 0).sum(), atol=0.005)


@given(rounds, st.none() | st.floats(0.05, 1.0))
def test_a_round_is_paid_one_pot_at_most_and_nothing_is_taken_back(
    rounds: list[dict[int, float]], cap: float | None
) -> None:
    paying = payroll(cap=cap)
    for scores in rounds:
        rewards = paying.reward(scores)
        assert rewards.keys() == scores.keys()
        assert min(rewards.values()) >= 0
        assert sum(rewards.values()) <= POT
    if cap is None and all(len(scores) == 7 for scores in rounds):
        assert sum(rewards.values()) in (0, POT)


something = st.floats(-10, 10).filter(bool)


@given(st.lists(st.lists(something, min_size=4, max_size=4), min_size=1, max_size=15))
def test_the_whole_pot_is_paid_if_all_contribute_and_one_has_merit(
    rounds: list[list[float]],
) -> None:
    paying = payroll()
    for scores in rounds:
        rewards = paying.reward(dict(enumerate(scores)))
        assert sum(rewards.values()) == (POT if max(paying.cumulative.values()) > 0 else 0)


def test_a_cap_applies_in_every_round_and_carries_the_rest_over() -> None:
    paying = payroll(cap=0.4)
    assert paying.reward({0: 3.0, 1: 1.0}) == {0: 400, 1: 250}
    assert paying.reward({0: 3.0, 1: 1.0})[0] == 400


@given(rounds, st.data())
def test_a_resumed_run_pays_to_the_unit_what_it_would_have_paid(
    rounds: list[dict[int, float]], data: st.DataObject
) -> None:
    whole = payroll()
    logged = [(scores, whole.reward(scores)) for scores in rounds]
    kill = data.draw(st.integers(0, len(rounds)))
    resumed = payroll()
    for scores, rewards in logged[:kill]:
        resumed.replay(from_json(scores), rewards)
    assert [resumed.reward(scores) for scores, _ in logged[kill:]] == [pay for _, pay in logged[kill:]]
    assert (resumed.cumulative, resumed.rewards) == (whole.cumulative, whole.rewards)


def from_json(scores: Mapping[int, float]) -> dict[int, float]:
    """Scores as a log gives them back."""
    return {int(client): score for client, score in json.loads(json.dumps(scores)).items()}


def test_a_round_in_which_all_score_zero_changes_no_merit() -> None:
    paying = payroll()
    paying.reward({0: 1.0, 1: 1.0})
    before = dict(paying.cumulative)
    paying.reward({0: 0.0, 1: 0.0})
    assert paying.cumulative == before


@pytest.mark.parametrize("settle", ["run", "round"])
def test_a_round_without_positive_contributions_keeps_its_pot(settle: Settle) -> None:
    paying = payroll(settle)
    for _ in range(3):
        paying.reward({0: 1.0, 1: 3.0})
    assert paying.reward({0: 0.0, 1: -0.0}) == {0: 0, 1: 0}
    assert paying.reward({0: 1.0, 1: 3.0}) == {0: 250, 1: 750}


def test_past_merit_pays_nothing_for_a_round_without_contributions() -> None:
    paying = payroll()
    # Both merit 1/2 and are paid up.
    assert paying.reward({0: 1.0, 1: 1.0}) == {0: 500, 1: 500}
    # 1 merits 3/2 of 2 now. Of two pots 0 is due 500, which it has; the same again for the next.
    assert paying.reward({0: 0.0, 1: 1.0}) == {0: 0, 1: 1000}
    # Merits 1/2 and 3/2: with the pot that comes, 0 would be due 750 less 500, and adds nothing for it.
    assert paying.reward({0: 0.0, 1: -0.0, 2: 1e-3}) == {0: 0, 1: 0, 2: 1000}


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, -2.0, 5e-324]), min_size=3, max_size=3), max_size=9))
def test_a_score_of_zero_earns_nothing_in_its_round_and_the_pot_is_paid_or_kept(
    rounds: list[list[float]],
) -> None:
    paying = payroll()
    for scores in rounds:
        rewards = paying.reward(dict(enumerate(scores)))
        assert all(not units for client, units in rewards.items() if not scores[client])
        assert sum(rewards.values()) in (0, POT)


def test_ten_thousand_clients_are_paid_in_a_moment() -> None:
    rng = np.random.default_rng(0)
    paying = payroll()
    for _ in range(2):
        rewards = paying.reward(dict(enumerate(rng.normal(size=10_000).tolist())))
        assert sum(rewards.values()) == POT


def test_the_refusal_over_the_limit_is_reported_once_with_all_lines_as_evidence() -> None:
    conduct = SlashingPolicy(slash_after=2)
    seen = [conduct.blame(4, line) for line in (b"first\n", b"second\n", b"third\n")]
    assert seen == [None, (4, hashlib.sha256(b"first\nsecond\n").digest()), None]


def test_clients_are_counted_separately() -> None:
    conduct = SlashingPolicy(slash_after=2)
    assert conduct.blame(1, b"a") is None
    assert conduct.blame(2, b"b") is None
