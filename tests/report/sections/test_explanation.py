"""The section about what was learned: from real runs, and from files made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedmeta.experiment.explanations import EXPLANATIONS, TensorRates, read
from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.explained import MOST_LAYERS, evidence_of, layer_charts, memory_charts, rates_chart
from fedmeta.report.page import Section
from fedmeta.report.read import read_run
from fedmeta.report.render.html import figure, render_part
from fedmeta.report.sections import sections_of_run
from fedmeta.report.sections.examples import read_pictures
from tests.report.made import EVIL

QUERY = {"query": 0, "label": 1, "predicted": 0, "probability": 0.75, "support": [0.25, -0.5, None]}
TASK: dict[str, Any] = {
    "client": 5,
    "support": [1, 0, 1],
    "how": "leave-one-out",
    "queries": [QUERY],
    "maps": [],
    "changes": [{"name": "a", "value": 0.5}, {"name": "b", "value": None}],
    "similarities": [],
}


def made(folder: Path, *tasks: dict[str, Any], **more: Any) -> Path:
    value = {"kind": "explanations", "version": 1, "algorithm": "maml", "steps": 1, "rates": []}
    (folder / EXPLANATIONS).write_text(json.dumps(value | {"tasks": tasks} | more))
    return folder


def section(folder: Path) -> Section | None:
    found = [one for one in sections_of_run(read_run(folder)) if one.key == "explanation"]
    return found[0] if found else None


def test_a_run_s_predictions_are_shown_with_its_pictures(digits: Path) -> None:
    shown = section(digits)
    assert shown is not None
    record, pictures = read(digits), read_pictures(digits)
    assert record is not None
    assert [one.client for one in shown.evidence] == [task.client for task in record.tasks]
    for number, (one, task) in enumerate(zip(shown.evidence, record.tasks, strict=True)):
        own = pictures[number]
        assert own is not None
        order = sorted(range(len(task.support)), key=lambda place, task=task: task.support[place])
        assert [label for _, label in one.columns] == sorted(task.support)
        assert [picture for picture, _ in one.columns] == [own[0][place] for place in order]
        for row, said in zip(one.rows, task.queries, strict=True):
            assert row.picture == own[1][said.query]
            values = [said.support[place] for place in order]
            assert [text for text, _ in row.cells] == [
                f"{100 * v:+.0f}".replace("-", "−") if abs(100 * (v or 0)) > 0.5 else "0" for v in values
            ]
    keys = [one.chart.key for one in shown.figures]
    assert keys == ["map-0-0", "map-0-1", "map-1-0", "map-1-1", "layer-changes", "layer-similarity"]


def test_pictures_of_another_task_are_not_shown(tmp_path: Path) -> None:
    task = read(made(tmp_path, TASK))
    assert task is not None
    found = evidence_of(task.tasks[0], (["a", "b"], []))
    assert found is not None
    assert found.columns == [("", 0), ("", 1), ("", 1)]
    assert found.rows[0].cells == [("−50", -1.0), ("+25", 0.5), ("–", 0.0)]


def test_a_run_without_the_file_has_no_section(digits: Path, tmp_path: Path) -> None:
    assert section(tmp_path) is None


def test_a_damaged_file_is_a_line(tmp_path: Path) -> None:
    (tmp_path / EXPLANATIONS).write_text("nonsense")
    shown = section(tmp_path)
    assert shown is not None
    assert shown.warning == "explanations.json is damaged."


def test_names_from_a_file_stay_text(tmp_path: Path) -> None:
    from fedmeta.report.parts import run_part

    memory = {"steps": [EVIL], "slots": [0], "reads": [[1.0]], "writes": [[1.0]]}
    layers = [{"name": EVIL, "value": 0.5}]
    made(tmp_path, TASK | {"note": EVIL, "changes": layers, "memory": memory})
    page = str(render_part(run_part(read_run(tmp_path), "n")))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_layers_have_the_mean_and_the_ends_of_the_tasks(tmp_path: Path) -> None:
    other = TASK | {"changes": [{"name": "a", "value": 0.7}]}
    record = read(made(tmp_path, TASK, other))
    assert record is not None
    (chart,) = layer_charts(record.tasks, record.steps)
    assert chart.labels == ["a"]
    (series,) = chart.series
    assert (series.y, series.low, series.high) == ([pytest.approx(0.6)], [0.5], [0.7])
    many = [{"name": f"layer{i}", "value": float(i)} for i in range(MOST_LAYERS * 3)]
    record = read(made(tmp_path, TASK | {"changes": many}))
    assert record is not None
    (chart,) = layer_charts(record.tasks, record.steps)
    assert len(chart.labels) == MOST_LAYERS
    assert (chart.labels[0], chart.labels[-1]) == ("layer0", "layer179")


def rates(*values: list[float]) -> list[TensorRates]:
    return [
        TensorRates.model_validate(
            {
                "name": f"t{i}",
                "steps": [{"mean": v, "low": v - 0.5, "high": v + 0.25} for v in steps],
            }
        )
        for i, steps in enumerate(values)
    ]


def test_rates_by_step_are_their_distance_from_the_start() -> None:
    chart = rates_chart(rates([0.5, 0.25], [1.0]), 0.25)
    assert isinstance(chart, Heatmap)
    assert (chart.rows, chart.columns) == (["t0", "t1"], [1, 2])
    assert chart.values == [[0.25, 0.0], [0.75, None]]


def test_rates_by_tensor_are_a_mean_and_its_spread() -> None:
    chart = rates_chart(rates([0.5], [1.0]), None)
    assert isinstance(chart, Chart)
    (series,) = chart.series
    assert (series.y, series.low, series.high) == ([0.5, 1.0], [0.0, 0.5], [0.75, 1.25])
    assert rates_chart([], None) is None


def test_a_memory_s_weights_are_drawn_from_zero_up(tmp_path: Path) -> None:
    memory = {"steps": ["1", "2"], "slots": [4], "reads": [[0.0], [0.5]], "writes": [[1.0], [0.0]]}
    record = read(made(tmp_path, TASK | {"memory": memory}))
    assert record is not None
    assert record.tasks[0].memory is not None
    writes, reads = memory_charts(0, 5, record.tasks[0].memory)
    assert (writes.values, reads.values) == ([[1.0], [0.0]], [[0.0], [0.5]])
    drawn = figure(writes)["data"][0]
    assert (drawn["zmin"], drawn["zmax"]) == (0, 1.0)


def test_a_support_set_is_drawn_as_rings_on_its_classes(digits: Path) -> None:
    shown = section(digits)
    assert shown is not None
    record = read(digits)
    assert record is not None
    chart = shown.figures[0].chart
    assert isinstance(chart, Chart)
    drawn = figure(chart)["data"]
    rings = [one for one in drawn if one["marker"]["symbol"] == "circle-open"]
    one = record.tasks[0].maps[0]
    assert sum(len(trace["x"]) for trace in rings) == len(one.labels) - one.queries
    assert not any(trace["showlegend"] for trace in rings)


def test_pictures_are_those_of_the_examples(digits: Path) -> None:
    tensors = load_file(digits / "examples.safetensors")
    found = read_pictures(digits)
    assert len(found) == 4
    for number, one in enumerate(found):
        assert one is not None
        assert len(one[0]) == len(tensors[f"{number}.support_x"])
        assert len(one[1]) == len(tensors[f"{number}.query_x"])
    assert read_pictures(digits / "nowhere") == []
