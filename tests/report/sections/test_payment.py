"""Contributions and rewards are those of ``clients.jsonl``."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from fedmeta.experiment.rows import CLIENTS
from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.client_log import ClientLog
from fedmeta.report.read import read_run
from fedmeta.report.sections.payment import (
    Paid,
    Payment,
    clients_table,
    paid_rows,
    payment_figures,
    rounds_table,
)
from tests.report.made import lines


def paid(client: int, round_: int, reward: int, score: float | None = 1.0) -> dict[str, object]:
    row = {"round": round_, "client": client, "tasks": 1, "admitted": True, "reason": None}
    return row | {"score": score, "reward": reward}


def log(rows: Iterable[dict[str, object]]) -> Paid:
    """Return rows as a report reads them."""
    found = paid_rows(ClientLog(CLIENTS.parse(json.dumps(row).encode()) for row in rows))
    assert found is not None
    return found


def test_rewards_add_up_to_the_log_s(digits: Path) -> None:
    run = read_run(digits)
    rows = paid_rows(run.clients)
    assert rows is not None
    total = sum(row["reward"] or 0 for row in lines(digits / "clients.jsonl")) / 1e6
    table = clients_table(rows, run.config)
    at = list(table.columns).index("tokens")
    earned = sum(float(str(row[at])) for row in table.rows)
    assert earned == pytest.approx(total, rel=1e-12)
    assert len(rounds_table(rows).rows) == len(lines(digits / "clients.jsonl"))
    chart, scores = (figure.chart for figure in payment_figures(rows, run.config))
    assert isinstance(chart, Chart)
    assert sum(series.y[-1] or 0 for series in chart.series) == pytest.approx(total, rel=1e-12)
    assert isinstance(scores, Heatmap)
    assert "client 2, copy" in scores.rows


def test_of_many_clients_the_most_and_the_least_paid_are_named() -> None:
    rows = [paid(client, r, 1_000_000 * client) for r in (1, 2) for client in range(20)]
    (figure,) = payment_figures(log(rows), None)
    assert isinstance(figure.chart, Chart)
    named = [series.name for series in figure.chart.series if not series.faint]
    assert named == [f"client {n}" for n in (19, 18, 17, 16, 3, 2, 1, 0)]
    assert len(figure.chart.series) == 20
    assert figure.chart.series[-8].y == [19.0, 38.0]


def test_clients_that_earn_alike_are_one_line() -> None:
    rows = [paid(client, r, 2_500_000) for r in (1, 2, 3) for client in range(9)]
    (figure,) = payment_figures(log(rows), None)
    assert isinstance(figure.chart, Chart)
    (series,) = figure.chart.series
    assert (series.name, series.y) == ("each of 9 clients", [2.5, 5.0, 7.5])


def test_scores_of_many_rounds_are_means_of_neighbours() -> None:
    rows = [paid(0, r, 0, float(r)) for r in range(1, 251)]
    (figure,) = payment_figures(log(rows), None)
    scores = figure.chart
    assert isinstance(scores, Heatmap)
    # 250 rounds, 100 columns at most: 84 columns of 3 rounds, whose first holds 1, 2 and 3.
    assert len(scores.columns) == 84
    assert (scores.columns[0], scores.values[0][0]) == (2.0, 2.0)
    assert scores.values[0][-1] == 250.0


def test_shares_are_added_up_by_client() -> None:
    """Two clients over three rounds, one of whose updates was refused and one not scored."""
    refused = {"admitted": False, "tasks": 0, "reason": "norm 12.5 exceeds max_norm 10", "score": None}
    rows = [
        paid(7, 1, 3_000_000, 0.5),
        paid(2, 1, 1_000_000, 0.25) | {"account": "0xabc"},
        paid(2, 2, 500_000, 0.75),
        paid(7, 2, 0) | refused,
        paid(7, 3, 250_000, None),
    ]
    table = clients_table(log(rows), None)
    columns = ["client", "tokens", "mean score", "rounds asked", "rounds admitted", "tasks"]
    assert list(table.columns) == [*columns, "refused", "account"]
    assert [list(row) for row in table.rows] == [
        [7, 3.25, 0.5, 3, 2, 2, "1: norm 12.5 exceeds max_norm 10", ""],
        [2, 1.5, 0.5, 2, 2, 2, "", "0xabc"],
    ]
    assert [list(row) for row in rounds_table(log(rows)).rows] == [
        [1, 7, 1, 1, 0.5, 3.0],
        [1, 2, 1, 1, 0.25, 1.0],
        [2, 2, 1, 1, 0.75, 0.5],
        [2, 7, 0, 0, None, 0.0],
        [3, 7, 1, 1, None, 0.25],
    ]


def test_of_more_clients_than_a_screen_tells_apart_some_are_drawn_and_the_note_says_how_many() -> None:
    rows = [paid(client, 1 + client, 1_000 * client, float(client)) for client in range(1500)]
    chart, scores = (figure.chart for figure in payment_figures(log(rows), None))
    assert isinstance(chart, Chart)
    assert isinstance(scores, Heatmap)
    assert len(chart.series) == len(scores.rows) == 200
    # Those that earned most but for the last four, and the four that earned least.
    drawn = {series.name for series in chart.series}
    assert drawn == {f"client {n}" for n in (*range(1304, 1500), 0, 1, 2, 3)} == set(scores.rows)
    assert "196 that earned most, of 1,500 clients" in chart.note
    assert "200 clients of the rewards chart, of 1,500" in scores.note
    assert len(clients_table(log(rows), None).rows) == 1500


def test_of_more_rounds_than_a_screen_has_points_the_sums_stay() -> None:
    rows = [paid(client, r, 1_000_000) for r in range(1, 5001) for client in range(2) if r % 2 == client]
    (figure,) = payment_figures(log(rows), None)
    assert isinstance(figure.chart, Chart)
    for series in figure.chart.series:
        assert len(series.x) == 1500
        assert (series.x[0], series.x[-1]) == (1, 5000)
        # A token in every second round.
        assert all(abs(x / 2 - (y or 0)) <= 0.5 for x, y in zip(series.x, series.y, strict=True))


def test_clients_that_earn_the_same_in_other_rounds_are_lines_of_their_own() -> None:
    rows = [paid(0, 1, 5), paid(0, 2, 0), paid(1, 1, 0), paid(1, 2, 5)]
    (figure,) = payment_figures(log(rows), None)
    assert isinstance(figure.chart, Chart)
    assert len(figure.chart.series) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"round": 2**60},
        {"round": "1"},
        {"tasks": 1e9},
        {"tasks": -1},
        {"admitted": "yes"},
    ],
)
def test_values_that_no_run_writes_are_left_out(wrong: dict[str, object]) -> None:
    rows = [paid(0, 1, 5), paid(1, 1, 7) | wrong]
    assert [row[0] for row in clients_table(log(rows), None).rows] == [0]


@pytest.mark.parametrize("reward", [1e305, -(1e301), True, "5", [5], None])
def test_a_reward_that_is_not_a_number_pays_nothing(reward: object) -> None:
    rows = [paid(0, 1, 2_000_000), paid(0, 2, 0) | {"reward": reward}]
    assert [row[1] for row in clients_table(log(rows), None).rows] == [2.0]


def test_without_an_incentive_rule_every_client_is_listed_with_what_it_did(tmp_path: Path) -> None:
    """Client 4 was asked twice and refused once; client 1 did three tasks in one round."""
    rows = [
        {"round": 1, "client": 4, "tasks": 2, "admitted": True, "reason": None},
        {"round": 1, "client": 1, "tasks": 3, "admitted": True, "reason": None},
        {"round": 2, "client": 4, "tasks": 0, "admitted": False, "reason": "not signed"},
    ]
    (tmp_path / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = Payment.of_run(read_run(tmp_path))
    assert section is not None
    assert (section.title, section.figures) == ("Clients", ())
    (table,) = section.tables
    assert list(table.columns) == ["client", "rounds asked", "rounds admitted", "tasks", "refused"]
    assert [list(row) for row in table.rows] == [[1, 1, 1, 3, ""], [4, 2, 1, 2, "1: not signed"]]
