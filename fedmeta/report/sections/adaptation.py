"""Adaptation curves: the test clients' results by adaptation step."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from fedmeta.report.arms import Arms
from fedmeta.report.charts import Chart, Series, bounds_of
from fedmeta.report.measured import banded, results_table, unit
from fedmeta.report.page import Section, figures_of
from fedmeta.report.read import RunFiles, number
from fedmeta.report.sections import ReportSection
from fedmeta.tasks import Measure

Row = dict[str, Any]
TITLE = "Adaptation"
_TEST = "The held-out test runs after the last round"


class Adaptation(ReportSection):
    """Results by adaptation step."""

    order = 40

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        if not run.final:
            text = _not_tested(run)
            return Section(key="adaptation", title=TITLE, text=text) if text else None
        return Section(
            key="adaptation",
            title=TITLE,
            figures=figures_of(adaptation_charts(run)),
            tables=[results_table(run.final, run.measures)],
        )

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section | None:
        chart = arms.adaptation()
        return None if chart.empty else Section("adaptation", TITLE, figures=figures_of([chart]))


def _not_tested(run: RunFiles) -> str:
    """Return why a run has no results of test clients; empty if that is not known."""
    if run.config is None or run.status == "finished":
        return ""
    if not run.config.test_clients:
        return "No clients are held out for a test."
    if run.status == "running":
        return f"{_TEST}."
    return f"{_TEST}, and this run ended before it. `fedmeta resume {run.path}` continues it."


def adaptation_charts(run: RunFiles) -> list[Chart]:
    """Return the test clients' results by adaptation step, measure by measure."""
    charts = [_chart(run.final, name, scale) for name, scale in run.measures.items()]
    return [chart for chart in charts if not chart.empty]


def _chart(final: Sequence[Row], measure: str, scale: Measure) -> Chart:
    steps = [int(row["step"]) for row in final]
    series = []
    for name, field, colour in (
        ("test clients", measure, 0),
        ("test clients, without transduction", f"inductive_{measure}", 1),
    ):
        one = Series(name, steps, [], mark="line+points", colour=colour, dash=colour)
        one = banded(one, final, field)
        if any(mean is not None for mean in one.y):
            series.append(one)
    tasks = int(number(final[0], "tasks") or 0) if final else 0
    return Chart(
        key=f"adaptation-{measure}",
        title=f"{measure.capitalize()} by adaptation step",
        x="adaptation steps on the support set",
        y=measure,
        bounds=bounds_of(scale),
        series=series,
        note=f"Means over {tasks} tasks of test clients; bands are 95% intervals over {unit(final)}.",
    )
