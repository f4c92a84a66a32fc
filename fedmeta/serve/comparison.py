"""Views of a comparison, and of runs selected from the list."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmeta.comparison.record import ArmRecord
from fedmeta.report.charts import Chart, Series
from fedmeta.report.measured import banded, interval_of, main_measure, step_names, unit
from fedmeta.report.parts import compare_part
from fedmeta.report.read import CompareFiles, RunFiles, number, read_compare
from fedmeta.report.sections.learning import looks, running_mean, smoothing
from fedmeta.report.tables import Cell, Table
from fedmeta.serve.index import Entry, Index
from fedmeta.serve.runs import chart_view, report_view, section_view, table_view
from fedmeta.serve.summary import summary
from fedmeta.tasks.measure import LOSS

_LEFT_OUT = ("runs",)


def comparison_view(entry: Entry, index: Index) -> dict[str, Any]:
    """Return a comparison's arms and what the report says of them.

    Args:
        entry: The comparison.
        index: What may be read: a run of an arm that is not in it is named and not read.
    """
    files = read_compare(entry.path)
    part = compare_part(_served(files, index), "comparison", entry.path)
    return summary(entry) | {
        "said": part.said,
        "results": [one for one in part.results if one[1] != "–"],
        "arms": [_arm(arm, entry.path, index) for arm in files.record.arms] if files.record else [],
        "sections": [section_view(one) for one in part.sections if one.key not in _LEFT_OUT],
        "report": report_view(entry),
    }


def _served(files: CompareFiles, index: Index) -> CompareFiles:
    """Return the same comparison with those runs alone that may be read."""
    if files.record is None:
        return files
    arms = [
        arm.model_copy(update={"runs": [run for run in arm.runs if index.id_of(files.path / run.run)]})
        for arm in files.record.arms
    ]
    return replace(files, record=files.record.model_copy(update={"arms": arms}))


def _arm(arm: ArmRecord, folder: Path, index: Index) -> dict[str, Any]:
    runs = [
        {"id": index.id_of(folder / run.run), "seed": run.seed, "status": run.status, "error": run.error}
        for run in arm.runs
    ]
    kept = {"name": arm.name, "what": arm.what, "status": arm.status, "error": arm.error}
    return kept | {"runs": runs}


_SOURCES = {"test": "test clients", "evaluation": "validation clients", "": "training tasks"}
_STYLES = 8


def selected_view(runs: Mapping[str, RunFiles], points: int) -> dict[str, Any]:
    """Return the curves of some runs in one chart, and their results in one table.

    Args:
        runs: By id.
        points: Most points of a curve.
    """
    files = list(runs.values())
    measures = {main_measure(run) for run in files}
    measure = measures.pop() if len(measures) == 1 else LOSS
    tasks = sorted({run.config.task for run in files if run.config})
    charts = [_curves(runs, measure), _adaptation(runs, measure)]
    return {
        "runs": [{"id": id_, "status": run.status, "problem": run.problem} for id_, run in runs.items()],
        "warning": f"These runs are of different tasks: {', '.join(tasks)}." if len(tasks) > 1 else None,
        "charts": [chart_view(chart, points) for chart in charts if not chart.empty],
        "table": table_view(_finals(runs, measure)),
    }


def _curves(runs: Mapping[str, RunFiles], measure: str) -> Chart:
    source = next(
        name for name in _SOURCES if not name or all(looks(run.metrics, name) for run in runs.values())
    )
    series = [
        _style(_curve(id_, run, source, measure), place) for place, (id_, run) in enumerate(runs.items())
    ]
    found = [row for run in runs.values() for _, row in looks(run.metrics, source)] if source else []
    note = (
        f"Bands are 95% intervals over {unit(found)}."
        if source
        else "Means over the tasks of the round's admitted clients, after adaptation; a running mean "
        "over about a fiftieth of the rounds."
    )
    return Chart(
        key="selected-curves",
        title=f"{measure.capitalize()} by round, {_SOURCES[source]}",
        x="round",
        y=measure,
        series=series,
        note=note,
    )


def _curve(id_: str, run: RunFiles, source: str, measure: str) -> Series:
    if not source:
        rounds = [row["round"] for row in run.metrics]
        values = [None if row.get("skipped") else number(row, measure) for row in run.metrics]
        return Series(id_, rounds, running_mean(values, smoothing(len(values))))
    found = looks(run.metrics, source)
    series = Series(id_, [round_ for round_, _ in found], [], mark="line+points")
    return banded(series, [row for _, row in found], measure)


def _adaptation(runs: Mapping[str, RunFiles], measure: str) -> Chart:
    series = [
        _style(_by_step(id_, run, measure), place) for place, (id_, run) in enumerate(runs.items())
    ]
    return Chart(
        key="selected-adaptation",
        title=f"{measure.capitalize()} by adaptation step, test clients",
        x="adaptation steps on the support set",
        y=measure,
        series=[one for one in series if one.y],
        note=f"Of finished runs; bands are 95% intervals over {_unit(runs)}.",
    )


def _by_step(id_: str, run: RunFiles, measure: str) -> Series:
    series = Series(id_, [int(row["step"]) for row in run.final], [], mark="line+points")
    return banded(series, run.final, measure)


def _style(series: Series, place: int) -> Series:
    return replace(series, colour=place % _STYLES, dash=place // _STYLES)


def _finals(runs: Mapping[str, RunFiles], measure: str) -> Table:
    steps = sorted({int(row["step"]) for run in runs.values() for row in run.final})
    rows: list[list[Cell]] = []
    for id_, run in runs.items():
        by_step = {int(row["step"]): row for row in run.final}
        cells: list[Cell] = [id_, run.status, len(run.metrics)]
        for step in steps:
            row = by_step.get(step)
            cells.append(interval_of(row, measure) if row else None)
        rows.append([*cells, number(run.info, "wall_seconds")])
    columns = ["run", "status", "rounds", *step_names(steps), "seconds"]
    title = f"{measure.capitalize()} of test clients by adaptation step"
    return Table("selected", title, columns, rows, f"With 95% intervals over {_unit(runs)}.")


def _unit(runs: Mapping[str, RunFiles]) -> str:
    return unit(row for run in runs.values() for row in run.final)
