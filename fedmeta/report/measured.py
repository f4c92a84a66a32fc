"""Results in rows of files: means with half their 95% intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedmeta.experiment.rows import half_of
from fedmeta.federation.records import INDUCTIVE
from fedmeta.report.charts import Series, band
from fedmeta.report.read import RunFiles, number
from fedmeta.report.tables import Cell, Interval, Table, shown
from fedmeta.tasks.measure import LOSS

Row = Mapping[str, Any]

MOST_STEPS = 50
"""Most adaptation steps that are shown."""


def _half(field: str) -> str:
    """Return the name of the field that holds half the interval of a mean."""
    return "ci95" if field == "mean" else half_of(field)


def interval_of(row: Row, field: str) -> Interval:
    """Return a row's mean and half its interval: over clients, see `unit`."""
    return Interval(number(row, field), number(row, _half(field)))


def interval_over_tasks(row: Row, field: str) -> Interval:
    """Return a row's mean and half its interval over tasks."""
    half = _half(field)
    half = half.replace("ci95", "tasks_ci95") if _has_both(row) else half
    return Interval(number(row, field), number(row, half))


def _has_both(row: Row) -> bool:
    # Versions without this field wrote the interval over tasks alone, where that over clients is now.
    return "tasks_ci95" in row


def unit(rows: Iterable[Row]) -> str:
    """Return what the intervals of rows are over; ``tasks`` in runs of earlier versions."""
    found = {_has_both(row) for row in rows}
    if found == {False}:
        return "tasks"
    return "clients, in runs of earlier versions over tasks" if False in found else "clients"


def said_mean(row: Row, measure: str) -> str:
    """Return a mean and its interval as text; an infinite loss is explained."""
    found, diverged = interval_of(row, measure), number(row, "diverged")
    if found.mean is not None or not diverged:
        return shown(found)
    tasks, rest = shown(number(row, "tasks")), shown(number(row, "finite_loss"))
    return f"infinite: {diverged:g} of {tasks} tasks diverged, mean of the others {rest}"


Half = Callable[[Row, str], Interval]


def banded(series: Series, rows: Sequence[Row], field: str, half: Half = interval_of) -> Series:
    """Return a series with each row's mean as its values and the interval as a band around them."""
    found = [half(row, field) for row in rows]
    return band(series, [one.mean for one in found], [one.half for one in found])


def results_table(final: Sequence[Row], measures: Iterable[str]) -> Table:
    """Return test clients' results by adaptation step, with both intervals and diverged tasks.

    Args:
        final: Results by adaptation step.
        measures: What there may be results of.
    """
    columns: dict[str, Callable[[Row], Cell]] = {"adaptation steps": lambda row: number(row, "step")}
    diverged = any(number(row, "diverged") for row in final)
    for measure in measures:
        inductive = f"{INDUCTIVE}{measure}", f"{measure} without transduction"
        for field, name in ((measure, measure), inductive):
            if any(number(row, field) is not None for row in final) or (diverged and field == LOSS):
                columns |= _with_intervals(field, name, final)
    columns["tasks"] = lambda row: number(row, "tasks")
    if any(_has_both(row) for row in final):
        columns["clients"] = _answered
    if diverged:
        columns["tasks that diverged"] = lambda row: number(row, "diverged")
        columns["loss of the others"] = lambda row: number(row, "finite_loss")
    rows = [[cell(row) for cell in columns.values()] for row in final]
    return Table("results", "Results of test clients", list(columns), rows, RESULTS_NOTE)


RESULTS_NOTE = (
    "Means over tasks, with 95% intervals: over clients for new clients, over tasks for new tasks of "
    "the same clients. A task that diverged counts as the worst: accuracy 0 and an infinite loss."
)


def _with_intervals(field: str, name: str, final: Sequence[Row]) -> dict[str, Callable[[Row], Cell]]:
    """Return the columns of a mean with its interval over clients and over tasks."""
    columns: dict[str, Callable[[Row], Cell]] = {}
    if any(_has_both(row) for row in final):
        columns[f"{name} ± over clients"] = lambda row: _cell(interval_of(row, field), row)
    columns[f"{name} ± over tasks"] = lambda row: _cell(interval_over_tasks(row, field), row)
    return columns


def _cell(found: Interval, row: Row) -> Cell:
    return "infinite" if found.mean is None and number(row, "diverged") else found


def _answered(row: Row) -> Cell:
    clients, asked = number(row, "clients"), number(row, "clients_asked")
    return clients if clients == asked else f"{shown(clients)} of {shown(asked)} answered"


def step_names(steps: Sequence[int]) -> list[str]:
    """Return column names for adaptation steps."""
    return ["before" if step == 0 else f"{step} steps" for step in steps]


def main_measure(run: RunFiles) -> str:
    """Return a run's main measure: the first one that has values."""
    rows = [*run.metrics[:1], *run.metrics[-1:], *run.final[:1]]
    known = (name for name in run.measures if any(number(row, name) is not None for row in rows))
    return next(known, LOSS)
