"""Learning curves: training and held-out clients by round."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from typing_extensions import override

from fedmeta.experiment.rows import MetricsRow
from fedmeta.report.arms import Arms
from fedmeta.report.charts import Chart, Series, Values, bounds_of
from fedmeta.report.measured import banded, unit
from fedmeta.report.page import Section, figures_of
from fedmeta.report.read import RunFiles, number, steps_of
from fedmeta.report.sections import ReportSection
from fedmeta.report.tables import Table
from fedmeta.tasks import Measure

Row = dict[str, Any]


COLOURS = {"after": 0, "before": 1, "validation": 2, "test": 3}
"""A run's curves, and their places in the palette."""
_SMOOTH_FROM = 100
_MOST_COLUMNS = 100
"""Names of ``metrics.jsonl`` that the CSV file has."""


class Learning(ReportSection):
    """Learning curves."""

    order = 30

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        charts = learning_charts(run)
        if not run.metrics and run.config:
            return Section(key="learning", title="Learning", text="No rounds logged yet.")
        if not charts:
            return None
        return Section(
            key="learning",
            title="Learning",
            figures=figures_of(charts),
            files=[partial(_metrics_table, run.metrics)],
        )

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section | None:
        charts = [arms.curve("round", "rounds"), arms.curve("tasks", "training tasks")]
        kept = [chart for chart in charts if not chart.empty]
        return Section("learning", "Learning", figures=figures_of(kept)) if kept else None


def learning_charts(run: RunFiles) -> list[Chart]:
    """Return each measure by round, of training tasks and of held-out clients."""
    charts = [_chart(run, name, scale) for name, scale in run.measures.items()]
    return [chart for chart in charts if not chart.empty]


def evaluations(metrics: Iterable[MetricsRow], field: str) -> list[tuple[int, Row]]:
    """Return (round, result) of each evaluation of held-out clients, at its last adaptation step.

    Args:
        metrics: Rows of ``metrics.jsonl``.
        field: ``evaluation`` for validation clients, ``test`` for test clients.
    """
    found = ((row["round"], steps_of(row.get(field))) for row in metrics)
    return [(round_, steps[-1]) for round_, steps in found if steps]


def _chart(run: RunFiles, measure: str, scale: Measure) -> Chart:
    return Chart(
        key=f"learning-{measure}",
        title=f"{measure.capitalize()} by round",
        x="round",
        y=measure,
        bounds=bounds_of(scale),
        series=curves(run, measure),
        note=_learning_note(run, measure),
        log_y=scale.high is None and not scale.higher_is_better and _spans_decades(run.metrics, measure),
    )


def curves(run: RunFiles, measure: str) -> list[Series]:
    """Return a measure by round, of training tasks and of held-out clients."""
    rounds = [row["round"] for row in run.metrics]
    found: list[Series] = []
    for name, field, colour in (
        ("training, after adaptation", measure, "after"),
        ("training, before adaptation", f"{measure}_before", "before"),
    ):
        values = [None if row.get("skipped") else number(row, field) for row in run.metrics]
        found += _training(Series(name, rounds, values, colour=COLOURS[colour]))
    for name, field in (("validation clients", "evaluation"), ("test clients", "test")):
        found += _held_out(run, field, name, measure)
    return found


def _training(series: Series) -> list[Series]:
    """Return a training curve, with its running mean in front where there are many rounds."""
    if all(value is None for value in series.y):
        return []
    window = smoothing(len(series.y))
    if window == 1:
        return [series]
    faint = Series(f"{series.name}, each round", series.x, series.y, colour=series.colour, faint=True)
    return [faint, Series(series.name, series.x, running_mean(series.y, window), colour=series.colour)]


def _held_out(run: RunFiles, field: str, name: str, measure: str) -> list[Series]:
    found = evaluations(run.metrics, field)
    if not found:
        return []
    step = int(found[-1][1]["step"])
    colour = COLOURS["validation" if field == "evaluation" else "test"]
    series = Series(
        f"{name}, {step} steps", [round_ for round_, _ in found], [], mark="line+points", colour=colour
    )
    filled = banded(series, [row for _, row in found], measure)
    return [] if all(mean is None for mean in filled.y) else [filled]


def smoothing(rounds: int) -> int:
    """Return the number of rounds in a training curve's running mean; 1: there is none."""
    return 1 if rounds < _SMOOTH_FROM else max(rounds // 50, 5)


def running_mean(values: Values, window: int) -> list[float | None]:
    """Return the mean over the `window` values around each one, gaps left out; fewer at both ends."""
    known = np.array([0.0 if value is None else value for value in values])
    count = np.array([value is not None for value in values], dtype=float)
    reach = window // 2
    sums, counts = (np.concatenate(([0.0], np.cumsum(column))) for column in (known, count))
    at = np.arange(len(values))
    first, end = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    total, seen = sums[end] - sums[first], counts[end] - counts[first]
    return [float(t / n) if n else None for t, n in zip(total, seen, strict=True)]


def _learning_note(run: RunFiles, measure: str) -> str:
    window = smoothing(len(run.metrics))
    notes = ["Training values are means over the tasks of the round's admitted clients."]
    if window > 1:
        notes.append(
            f"Bold lines are running means over {2 * (window // 2) + 1} rounds, faint ones each round."
        )
    held_out = [row for field in ("evaluation", "test") for _, row in evaluations(run.metrics, field)]
    if held_out:
        notes.append(f"Bands are 95% intervals of the mean {measure} over {unit(held_out)}.")
    return " ".join(notes)


def _spans_decades(metrics: Iterable[MetricsRow], measure: str) -> bool:
    known = [value for row in metrics for value in [number(row, measure)] if value]
    return bool(known) and min(known) > 0 and max(known) > 100 * min(known)


def _metrics_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Return all numbers of ``metrics.jsonl`` by round, for the CSV file."""
    found = (key for row in metrics for key in row if not isinstance(row[key], list | dict))
    names = list(islice(dict.fromkeys(found), _MOST_COLUMNS))
    rows = [[_plain(row.get(name)) for name in names] for row in metrics]
    return Table("rounds", "Every round", names, rows)


def _plain(value: object) -> str | int | float | None:
    return value if value is None or isinstance(value, int | float) else str(value)
