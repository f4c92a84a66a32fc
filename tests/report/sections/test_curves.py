"""Charts of a run show the numbers of its files."""

from itertools import accumulate
from pathlib import Path

import pytest

from fedmeta.report.charts import Chart, Series
from fedmeta.report.measured import main_measure
from fedmeta.report.read import read_run
from fedmeta.report.sections.adaptation import adaptation_charts
from fedmeta.report.sections.communication import communication_charts
from fedmeta.report.sections.learning import learning_charts, running_mean
from tests.report.made import lines


def named(charts: list[Chart], key: str, name: str) -> Series:
    (chart,) = [one for one in charts if one.key == key]
    (series,) = [one for one in chart.series if one.name == name]
    return series


def test_training_curves_are_the_rows(digits: Path) -> None:
    rows = lines(digits / "metrics.jsonl")
    charts = learning_charts(read_run(digits))
    assert [chart.key for chart in charts] == ["learning-accuracy", "learning-loss"]
    after = named(charts, "learning-accuracy", "training, after adaptation")
    before = named(charts, "learning-loss", "training, before adaptation")
    assert list(after.x) == [1, 2, 3, 4, 5, 6]
    assert list(after.y) == [row["accuracy"] for row in rows]
    assert list(before.y) == [row["loss_before"] for row in rows]


def test_evaluations_of_held_out_clients_have_their_intervals_as_bands(digits: Path) -> None:
    rows = lines(digits / "metrics.jsonl")
    charts = learning_charts(read_run(digits))
    for name, field, rounds in (
        ("test clients", "test", [2, 4, 6]),
        ("validation clients", "evaluation", [3, 6]),
    ):
        last = [row[field][-1] for row in rows if row[field]]
        accuracy = named(charts, "learning-accuracy", f"{name}, 3 steps")
        assert list(accuracy.x) == rounds
        assert list(accuracy.y) == [one["accuracy"] for one in last]
        # Of the one validation client nothing is known about others.
        alone = field == "evaluation"
        assert list(accuracy.high or ()) == [
            None if alone else one["accuracy"] + one["ci95"] for one in last
        ]
        loss = named(charts, "learning-loss", f"{name}, 3 steps")
        assert list(loss.low or ()) == [
            None if alone else one["loss"] - one["loss_ci95"] for one in last
        ]
    assert "Bands are 95% intervals of the mean accuracy over clients." in charts[0].note


def test_a_regression_has_only_losses(sinusoid: Path) -> None:
    run = read_run(sinusoid)
    assert main_measure(run) == "loss"
    assert [chart.key for chart in learning_charts(run)] == ["learning-loss"]
    assert [chart.key for chart in adaptation_charts(run)] == ["adaptation-loss"]


def test_adaptation_is_the_final_result(digits: Path) -> None:
    run = read_run(digits)
    series = named(adaptation_charts(run), "adaptation-accuracy", "test clients")
    assert list(series.x) == [0, 1, 3]
    assert list(series.y) == [row["accuracy"] for row in run.info["final"]]
    assert list(series.low or ()) == [row["accuracy"] - row["ci95"] for row in run.info["final"]]


def test_bytes_are_summed_both_ways_and_start_with_the_first_round(digits: Path) -> None:
    rows = lines(digits / "metrics.jsonl")
    series = named(
        communication_charts(read_run(digits)), "communication-accuracy", "training, after adaptation"
    )
    sent = accumulate(row["bytes_down"] + row["bytes_up"] for row in rows)
    assert list(series.x) == [total / 1e6 for total in sent]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 6.0, 4.0], [1.5, 3.0, 4.0, 5.0]),
        ([1.0, None, 3.0], [1.0, 2.0, 3.0]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_running_means_by_hand(values: list[float | None], expected: list[float | None]) -> None:
    assert running_mean(values, 3) == expected
