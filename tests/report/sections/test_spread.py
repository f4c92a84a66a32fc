"""Measures of fairness, computed by hand."""

import math
from pathlib import Path

import pytest

from fedmeta.experiment import rows as logs
from fedmeta.report.read import RunFiles
from fedmeta.report.sections.spread import results, spread_charts, spread_of, spread_table
from fedmeta.tasks import Measure

SHARE = Measure(higher_is_better=True, low=0.0, high=1.0)


def test_ten_clients_by_hand() -> None:
    """0.1, 0.2, ..., 1.0: mean 0.55, variance 0.0825, and Jain (5.5)^2 / (10 * 3.85) = 11/14."""
    found = spread_of([n / 10 for n in (3, 1, 2, 4, 10, 9, 8, 7, 6, 5)], SHARE)
    assert found.clients == 10
    assert found.mean == pytest.approx(0.55)
    assert found.deviation**2 == pytest.approx(0.0825)
    assert (found.worst, found.best) == pytest.approx((0.1, 1.0))
    assert found.jain == pytest.approx(11 / 14)


def test_a_tenth_of_eleven_clients_is_two_and_a_loss_is_worst_where_it_is_high() -> None:
    found = spread_of([float(n) for n in range(11)], Measure())
    assert (found.worst, found.best) == (9.5, 0.5)
    assert found.jain is None


@pytest.mark.parametrize(("values", "jain"), [([0.3, 0.3, 0.3], 1.0), ([0.9, 0.0, 0.0, 0.0], 0.25)])
def test_jain_is_one_if_all_are_served_alike_and_one_nth_if_one_has_it_all(
    values: list[float], jain: float
) -> None:
    assert spread_of(values, SHARE).jain == pytest.approx(jain)


def test_clients_that_get_nothing_right_are_served_alike() -> None:
    assert spread_of([0.0, 0.0], SHARE).jain == 1.0


def test_rows_without_the_step_or_the_measure_are_left_out() -> None:
    test = [
        {"client": 7, "steps": [{"step": 0, "accuracy": 0.25}, {"step": 5, "accuracy": 0.5}]},
        {"client": 8, "steps": [{"step": 0, "accuracy": None}]},
        {"client": 9, "steps": "nothing"},
    ]
    assert results(test, "accuracy", SHARE)[5] == {7: 0.5}
    table = spread_table(test, "accuracy", SHARE)
    assert [row[:3] for row in table.rows] == [[0, 1, 0.25], [5, 1, 0.5]]


def test_a_client_with_a_task_that_diverged_is_the_worst_and_not_left_out() -> None:
    step = {"step": 0, "loss": 2.0, "diverged": 0}
    test = [{"client": c, "steps": [step]} for c in range(2)]
    test.append({"client": 2, "steps": [step | {"loss": None, "diverged": 3}]})
    values = results(test, "loss", Measure())[0]
    assert values == {0: 2.0, 1: 2.0, 2: math.inf}
    found = spread_of(list(values.values()), Measure())
    assert (found.clients, found.mean, found.worst, found.best) == (3, math.inf, math.inf, 2.0)
    assert spread_table(test, "loss", Measure()).rows[0][1:3] == [3, math.inf]


def test_of_very_many_steps_the_first_and_the_last_are_shown() -> None:
    steps = [{"step": step, "accuracy": step / 1000} for step in range(200)]
    test = [logs.TestedRow(client=client, steps=steps) for client in range(3)]
    rows = spread_table(test, "accuracy", SHARE).rows
    assert [row[0] for row in rows] == [*range(49), 199]
    assert rows[-1][2] == pytest.approx(0.199)


def test_of_very_many_clients_some_at_equal_distances_are_drawn(tmp_path: Path) -> None:
    test = [
        logs.TestedRow(client=client, steps=[{"step": 1, "accuracy": client / 3000}])
        for client in range(3000)
    ]
    run = RunFiles(tmp_path, "r", "finished", None, None, {}, test=test)
    (drawn,) = spread_charts(run, "accuracy")
    assert len(drawn.labels) == len(drawn.series[0].y) == 1500
    assert (drawn.labels[0], drawn.labels[-1]) == ("0", "2999")
    assert "1,500 of 3,000 clients" in drawn.note
