"""Contributions and rewards are those of ``clients.jsonl``."""

from pathlib import Path

import pytest

from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.read import read_run
from fedmeta.report.sections.payment import earnings_table, paid_rows, payment_figures, rounds_table
from tests.report.made import lines


def paid(client: int, round_: int, reward: int, score: float | None = 1.0) -> dict[str, object]:
    row = {"round": round_, "client": client, "tasks": 1, "admitted": True, "reason": None}
    return row | {"score": score, "reward": reward}


def test_rewards_add_up_to_the_log_s(digits: Path) -> None:
    run = read_run(digits)
    rows = paid_rows(run)
    total = sum(row["reward"] or 0 for row in lines(digits / "clients.jsonl")) / 1e6
    earned = sum(float(str(row[-2])) for row in earnings_table(rows, run.config).rows)
    assert earned == pytest.approx(total, rel=1e-12)
    assert len(rounds_table(rows).rows) == len(lines(digits / "clients.jsonl"))
    chart, scores = (figure.chart for figure in payment_figures(rows, run.config))
    assert isinstance(chart, Chart)
    assert sum(series.y[-1] or 0 for series in chart.series) == pytest.approx(total, rel=1e-12)
    assert isinstance(scores, Heatmap)
    assert "client 2, copy" in scores.rows


def test_of_many_clients_the_most_and_the_least_paid_are_named() -> None:
    rows = [paid(client, r, 1_000_000 * client) for r in (1, 2) for client in range(20)]
    (figure,) = payment_figures(rows, None)
    assert isinstance(figure.chart, Chart)
    named = [series.name for series in figure.chart.series if not series.faint]
    assert named == [f"client {n}" for n in (19, 18, 17, 16, 3, 2, 1, 0)]
    assert len(figure.chart.series) == 20
    assert figure.chart.series[-8].y == [19.0, 38.0]


def test_clients_that_earn_alike_are_one_line() -> None:
    rows = [paid(client, r, 2_500_000) for r in (1, 2, 3) for client in range(9)]
    (figure,) = payment_figures(rows, None)
    assert isinstance(figure.chart, Chart)
    (series,) = figure.chart.series
    assert (series.name, series.y) == ("each of 9 clients", [2.5, 5.0, 7.5])


def test_scores_of_many_rounds_are_means_of_neighbours() -> None:
    rows = [paid(0, r, 0, float(r)) for r in range(1, 251)]
    (figure,) = payment_figures(rows, None)
    scores = figure.chart
    assert isinstance(scores, Heatmap)
    # 250 rounds, 100 columns at most: 84 columns of 3 rounds, whose first holds 1, 2 and 3.
    assert len(scores.columns) == 84
    assert (scores.columns[0], scores.values[0][0]) == (2.0, 2.0)
    assert scores.values[0][-1] == 250.0
