"""Results as a row: the unit of an interval, and divergence."""

from typing import Any

from fedmeta.report.measured import (
    interval_of,
    interval_over_tasks,
    results_table,
    said_mean,
    unit,
)
from fedmeta.report.tables import Interval

NAMES = ("accuracy", "loss")
EARLIER: dict[str, Any] = {
    "step": 0,
    "accuracy": 0.5,
    "ci95": 0.01,
    "loss": 1.5,
    "loss_ci95": 0.1,
    "tasks": 600,
}
"""A row as versions with intervals over tasks alone wrote it."""
NOW = EARLIER | {
    "ci95": 0.04,
    "loss_ci95": 0.4,
    "tasks_ci95": 0.01,
    "loss_tasks_ci95": 0.1,
    "diverged": 0,
    "finite_loss": 1.5,
    "clients": 6,
    "clients_asked": 6,
}
DIVERGED = NOW | {"step": 5, "accuracy": 0.25, "loss": None, "loss_ci95": None, "loss_tasks_ci95": None}
DIVERGED |= {"diverged": 30, "finite_loss": 1.25, "clients": 5}


def test_the_interval_of_a_row_is_over_clients_and_the_other_beside_it() -> None:
    assert interval_of(NOW, "accuracy") == Interval(0.5, 0.04)
    assert interval_over_tasks(NOW, "accuracy") == Interval(0.5, 0.01)
    assert interval_over_tasks(NOW, "loss") == Interval(1.5, 0.1)
    assert unit([NOW, DIVERGED]) == "clients"


def test_a_row_of_an_earlier_version_has_the_interval_over_tasks_and_is_labelled_so() -> None:
    assert (
        interval_over_tasks(EARLIER, "accuracy")
        == interval_of(EARLIER, "accuracy")
        == Interval(0.5, 0.01)
    )
    assert unit([EARLIER]) == "tasks"
    assert unit([EARLIER, NOW]) == "clients, in runs of earlier versions over tasks"
    table = results_table([EARLIER], NAMES)
    assert table.columns == ["adaptation steps", "accuracy ± over tasks", "loss ± over tasks", "tasks"]
    assert table.rows == [[0, Interval(0.5, 0.01), Interval(1.5, 0.1), 600]]


def test_the_table_of_results_has_both_intervals_and_says_who_is_missing_and_what_diverged() -> None:
    table = results_table([NOW, DIVERGED], NAMES)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert rows[0]["accuracy ± over clients"] == Interval(0.5, 0.04)
    assert rows[0]["loss ± over tasks"] == Interval(1.5, 0.1)
    assert (rows[0]["clients"], rows[0]["tasks that diverged"]) == (6, 0)
    assert rows[1]["loss ± over clients"] == "infinite"
    assert rows[1]["accuracy ± over clients"] == Interval(0.25, 0.04)
    assert (rows[1]["tasks that diverged"], rows[1]["loss of the others"]) == (30, 1.25)
    assert rows[1]["clients"] == "5 of 6 answered"


def test_an_infinite_loss_is_reported_with_its_cause() -> None:
    assert said_mean(NOW, "loss") == "1.500 ± 0.400"
    assert said_mean(DIVERGED, "loss") == "infinite: 30 of 600 tasks diverged, mean of the others 1.250"
    assert said_mean({"loss": None}, "loss") == "–"
