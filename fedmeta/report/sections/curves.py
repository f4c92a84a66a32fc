"""Learning, adaptation and communication curves."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from fedmeta.experiment.rows import MetricsRow
from fedmeta.report.charts import BOUNDS, Chart, Series, Values
from fedmeta.report.measured import banded, unit
from fedmeta.report.read import RunFiles, number, steps_of

Row = dict[str, Any]

MEASURES = ("accuracy", "loss")
COLOURS = {"after": 0, "before": 1, "validation": 2, "test": 3}
"""Places in the palette of what a run's curves show."""
_SMOOTH_FROM = 100


def learning_charts(run: RunFiles) -> list[Chart]:
    """Return accuracy and loss by round, of training tasks and of held-out clients."""
    charts = [_learning(run, measure) for measure in MEASURES]
    return [chart for chart in charts if not chart.empty]


def adaptation_charts(run: RunFiles) -> list[Chart]:
    """Return the test clients' accuracy and loss by adaptation step."""
    charts = [_adaptation(run.final, measure) for measure in MEASURES]
    return [chart for chart in charts if not chart.empty]


def communication_charts(run: RunFiles) -> list[Chart]:
    """Return the main measure against the bytes sent up to then; none where nothing was sent."""
    measure = main_measure(run)
    sent = sent_bytes(run.metrics)
    if not sent or not sent[-1]:
        return []
    by_round = {row["round"]: total for row, total in zip(run.metrics, sent, strict=True)}
    series = [
        Series(
            one.name,
            [by_round.get(int(round_), 0) / 1e6 for round_ in one.x],
            one.y,
            one.low,
            one.high,
            one.mark,
            one.colour,
            one.dash,
            faint=one.faint,
        )
        for one in _curves(run, measure)
        if one.colour != COLOURS["before"]
    ]
    chart = Chart(
        key=f"communication-{measure}",
        title=f"{measure.capitalize()} against communicated bytes",
        x="megabytes sent so far, to and from clients",
        y=measure,
        bounds=BOUNDS.get(measure),
        series=series,
        note="Bytes of arrays in requests and replies, summed over all rounds so far.",
    )
    return [] if chart.empty else [chart]


def main_measure(run: RunFiles) -> str:
    """Return ``accuracy`` where the run has one, and else ``loss``."""
    rows = [*run.metrics[:1], *run.metrics[-1:], *run.final[:1]]
    known = any(number(row, "accuracy") is not None for row in rows)
    return "accuracy" if known else "loss"


def sent_bytes(metrics: Iterable[MetricsRow]) -> list[float]:
    """Return the bytes that were sent up to each round, to and from the clients."""
    both = ((number(row, "bytes_down") or 0) + (number(row, "bytes_up") or 0) for row in metrics)
    return list(accumulate(both))


def looks(metrics: Iterable[MetricsRow], field: str) -> list[tuple[int, Row]]:
    """Return (round, result) of each look at held-out clients, at its last adaptation step.

    Args:
        metrics: Rows of ``metrics.jsonl``.
        field: ``evaluation`` for validation clients, ``test`` for test clients.
    """
    found = ((row["round"], steps_of(row.get(field))) for row in metrics)
    return [(round_, steps[-1]) for round_, steps in found if steps]


def _learning(run: RunFiles, measure: str) -> Chart:
    return Chart(
        key=f"learning-{measure}",
        title=f"{measure.capitalize()} by round",
        x="round",
        y=measure,
        bounds=BOUNDS.get(measure),
        series=_curves(run, measure),
        note=_learning_note(run, measure),
        log_y=measure == "loss" and _spans_decades(run.metrics),
    )


def _curves(run: RunFiles, measure: str) -> list[Series]:
    rounds = [row["round"] for row in run.metrics]
    curves: list[Series] = []
    for name, field, colour in (
        ("training, after adaptation", measure, "after"),
        ("training, before adaptation", f"{measure}_before", "before"),
    ):
        values = [None if row.get("skipped") else number(row, field) for row in run.metrics]
        curves += _training(Series(name, rounds, values, colour=COLOURS[colour]))
    for name, field in (("validation clients", "evaluation"), ("test clients", "test")):
        curves += _held_out(run, field, name, measure)
    return curves


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
    found = looks(run.metrics, field)
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
    """Return over how many rounds a training curve's running mean goes; 1: there is none."""
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
    held_out = [row for field in ("evaluation", "test") for _, row in looks(run.metrics, field)]
    if held_out:
        notes.append(f"Bands are 95% intervals of the mean {measure} over {unit(held_out)}.")
    return " ".join(notes)


def _adaptation(final: Sequence[Row], measure: str) -> Chart:
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
        bounds=BOUNDS.get(measure),
        series=series,
        note=f"Means over {tasks} tasks of test clients; bands are 95% intervals over {unit(final)}.",
    )


def _spans_decades(metrics: Iterable[MetricsRow]) -> bool:
    known = [value for row in metrics for value in [number(row, "loss")] if value]
    return bool(known) and min(known) > 0 and max(known) > 100 * min(known)
