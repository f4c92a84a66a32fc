"""The section about streams: from a file made by hand, of a run and of a comparison."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedmeta.experiment.streams import STREAMS
from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.page import Section
from fedmeta.report.parts import compare_part, run_part
from fedmeta.report.read import read_compare, read_run
from fedmeta.report.render.html import render_part
from fedmeta.report.sections import sections_of_run
from fedmeta.report.tables import Interval
from tests.report.made import EVIL, make_comparison

ONE = {"mean": 0.5, "ci95": 0.25}


def curve(*values: float | None) -> dict[str, Any]:
    return {"mean": values, "ci95": [None if one is None else 0.5 for one in values]}


def value(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "streams",
        "version": 1,
        "algorithm": "maml",
        "measure": "accuracy",
        "higher_is_better": True,
        "drift": "tasks",
        "sizes": [2, 1, 2, 1],
        "batches": 2,
        "clients": 3,
        "streams": 6,
        "diverged": 0,
        "loss": curve(1.0, 0.5, 1.5, 0.5),
        "cumulative": curve(2.0, 2.5, 5.5, 6.0),
        "still": curve(2.0, 3.0, 6.0, 9.0),
        "regret": curve(0.5, 0.5, 2.5, 3.0),
        "prequential": [ONE, {"mean": None, "ci95": None}],
        "matrix": [[0.1, 0.2], [0.75, 0.3], [0.5, 0.8]],
        "final": ONE,
        "backward": {"mean": -0.25, "ci95": 0.125},
        "forward": ONE,
        "forgetting": ONE,
    } | changes


def put(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / STREAMS).write_text(json.dumps(value(**changes)))
    return folder


def section(folder: Path) -> Section | None:
    found = [one for one in sections_of_run(read_run(folder)) if one.key == "streams"]
    return found[0] if found else None


def test_a_run_s_streams_are_drawn_by_examples_so_far(tmp_path: Path) -> None:
    shown = section(put(tmp_path))
    assert shown is not None
    assert "2 segments of 3 arrive 2 at a time; each is another task" in shown.text
    loss, summed, regret, matrix = (figure.chart for figure in shown.figures)
    assert isinstance(loss, Chart)
    assert (loss.series[0].x, loss.series[0].y) == ([2.0, 3.0, 5.0, 6.0], [1.0, 0.5, 1.5, 0.5])
    assert loss.series[0].low == [0.5, 0.0, 1.0, 0.0]
    assert isinstance(summed, Chart)
    assert [list(one.y) for one in summed.series] == [
        [2.0, 2.5, 5.5, 6.0],
        [2.0, 3.0, 6.0, 9.0],
        [1.5, 2.0, 3.0, 3.0],
    ]
    assert isinstance(regret, Chart)
    assert regret.line == 0.0
    assert isinstance(matrix, Heatmap)
    assert matrix.rows == ["before the stream", "after segment 1", "after segment 2"]
    assert matrix.columns == [1, 2]
    assert matrix.values == [[0.1, 0.2], [0.75, 0.3], [0.5, 0.8]]


def test_its_table_has_losses_per_example_and_transfer(tmp_path: Path) -> None:
    shown = section(put(tmp_path))
    assert shown is not None
    summary, segments = shown.tables
    row = dict(zip(summary.columns, summary.rows[0], strict=True))
    assert row[""] == "maml"
    assert row["prequential loss"] == Interval(1.0, pytest.approx(0.5 / 6))
    assert row["loss without learning"] == Interval(1.5, pytest.approx(0.5 / 6))
    assert row["regret"] == Interval(0.5, pytest.approx(0.5 / 6))
    assert row["backward transfer"] == Interval(-0.25, 0.125)
    assert segments.rows == [[1, Interval(0.5, 0.25)], [2, Interval(None, None)]]


def test_a_run_without_the_file_has_no_section_and_a_damaged_one_is_a_line(tmp_path: Path) -> None:
    assert section(tmp_path) is None
    (tmp_path / STREAMS).write_text("nonsense")
    shown = section(tmp_path)
    assert shown is not None
    assert shown.warning == "streams.json is damaged."


def test_diverged_streams_are_a_warning_and_a_gap(tmp_path: Path) -> None:
    shown = section(put(tmp_path, diverged=2, loss=curve(1.0, None, None, None)))
    assert shown is not None
    assert shown.warning.endswith("2 of 6 streams of maml.")


def test_names_from_a_file_stay_text(tmp_path: Path) -> None:
    page = str(render_part(run_part(read_run(put(tmp_path, measure=EVIL, algorithm=EVIL)), "n")))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def compared(folder: Path) -> Section | None:
    part = compare_part(read_compare(folder), "c", folder)
    found = [one for one in part.sections if one.key == "streams"]
    return found[0] if found else None


def test_arms_are_compared_by_their_means_over_seeds(tmp_path: Path) -> None:
    """Two seeds: their mean, and half the interval is 12.706 |a - b| / 2."""
    folder = make_comparison(tmp_path / "compare-quickstart")
    assert compared(folder) is None
    for name in ("centralized", "federated"):
        put(folder / f"{name}-seed0")
        put(folder / f"{name}-seed1", cumulative=curve(2.0, 3.5, 5.5, 12.0), regret=curve(0, 1, 2, 3.0))
    shown = compared(folder)
    assert shown is not None
    assert shown.warning == ""
    loss, summed, regret, first, second = (figure.chart for figure in shown.figures)
    assert isinstance(loss, Chart)
    assert loss.series[1].y == [1.0, 0.5, 1.5, 0.5]
    assert isinstance(summed, Chart)
    assert [one.name for one in summed.series] == ["centralized", "federated"]
    assert summed.series[0].y == [2.0, 3.0, 5.5, 9.0]
    high, mean = summed.series[0].high, summed.series[0].y
    assert high is not None
    assert high[-1] == pytest.approx(9.0 + 12.7062 * 3, rel=1e-4)
    assert mean[0] == high[0]
    assert isinstance(regret, Chart)
    assert regret.series[1].y == [0.25, 0.75, 2.25, 3.0]
    assert [type(one) for one in (first, second)] == [Heatmap, Heatmap]
    (table,) = shown.tables
    assert [row[0] for row in table.rows] == ["centralized", "federated"]
    assert table.rows[0][1] == Interval(1.5, pytest.approx(12.7062 / 2, rel=1e-4))


def test_arms_of_other_streams_are_left_out_and_said(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "compare-quickstart")
    put(folder / "centralized-seed0")
    put(folder / "federated-seed0", sizes=[3, 1, 3, 1])
    (folder / "fedavg-seed0" / STREAMS).write_text("nonsense")
    shown = compared(folder)
    assert shown is not None
    assert (
        shown.warning == "fedavg-seed0: streams.json is damaged. federated had other streams: not shown."
    )
    assert [row[0] for row in shown.tables[0].rows] == ["centralized"]
