"""Selected runs side by side: their curves in one chart, their results in one table."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote

from fedmeta.report.charts import Chart, Series
from fedmeta.report.measured import banded, interval_of, main_measure, step_names, unit
from fedmeta.report.page import Part, Section, figures_of
from fedmeta.report.read import RunFiles, number
from fedmeta.report.sections.learning import evaluations, running_mean, smoothing
from fedmeta.report.tables import Cell, Link, Table
from fedmeta.tasks.measure import LOSS

_SOURCES = {"test": "test clients", "evaluation": "validation clients", "": "training tasks"}
_STYLES = 8


def selected_part(runs: Mapping[str, RunFiles]) -> Part:
    """Return the curves and the results of some runs.

    Args:
        runs: By id.
    """
    files = list(runs.values())
    measures = {main_measure(run) for run in files}
    measure = measures.pop() if len(measures) == 1 else LOSS
    tasks = sorted({run.config.task for run in files if run.config})
    different = f"These runs are of different tasks: {', '.join(tasks)}." if len(tasks) > 1 else ""
    charts = [_curves(runs, measure), _adaptation(runs, measure)]
    section = Section(
        "selected",
        "Curves and results",
        warning=different,
        figures=figures_of(chart for chart in charts if not chart.empty),
        tables=[_finals(runs, measure)],
    )
    problem = "; ".join(f"{id_}: {run.problem}" for id_, run in runs.items() if run.problem)
    name = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    return Part(name, "selection", "", problem=problem, sections=[section], key="runs")


def _curves(runs: Mapping[str, RunFiles], measure: str) -> Chart:
    source = next(
        name
        for name in _SOURCES
        if not name or all(evaluations(run.metrics, name) for run in runs.values())
    )
    series = [
        _style(_curve(id_, run, source, measure), place) for place, (id_, run) in enumerate(runs.items())
    ]
    found = (
        [row for run in runs.values() for _, row in evaluations(run.metrics, source)] if source else []
    )
    note = (
        f"Bands are 95% intervals over {unit(found)}."
        if source
        else "Means over the tasks of the round's admitted clients, after adaptation; a running mean "
        "over about a fiftieth of the rounds."
    )
    return Chart(
        key="curves",
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
    found = evaluations(run.metrics, source)
    series = Series(id_, [round_ for round_, _ in found], [], mark="line+points")
    return banded(series, [row for _, row in found], measure)


def _adaptation(runs: Mapping[str, RunFiles], measure: str) -> Chart:
    series = [
        _style(_by_step(id_, run, measure), place) for place, (id_, run) in enumerate(runs.items())
    ]
    return Chart(
        key="adaptation",
        title=f"{measure.capitalize()} by adaptation step, test clients",
        x="adaptation steps on the support set",
        y=measure,
        series=[one for one in series if one.y],
        note=f"Finished runs only; bands are 95% intervals over {_unit(runs)}.",
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
        cells: list[Cell] = [Link(id_, f"/runs/{quote(id_)}/"), run.status, len(run.metrics)]
        for step in steps:
            row = by_step.get(step)
            cells.append(interval_of(row, measure) if row else None)
        rows.append([*cells, number(run.info, "wall_seconds")])
    columns = ["run", "status", "rounds", *step_names(steps), "seconds"]
    title = f"{measure.capitalize()} of test clients by adaptation step"
    return Table("selected", title, columns, rows, f"With 95% intervals over {_unit(runs)}.")


def _unit(runs: Mapping[str, RunFiles]) -> str:
    return unit(row for run in runs.values() for row in run.final)
