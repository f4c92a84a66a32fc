"""Streams: learning online, without being told where a task ends, and what is forgotten."""

from typing_extensions import override

from fedmeta.errors import DataError
from fedmeta.experiment.streams import Streams as Record
from fedmeta.experiment.streams import read
from fedmeta.report.arms import Arms
from fedmeta.report.charts import Chart
from fedmeta.report.page import Figure, Section, figures_of
from fedmeta.report.read import RunFiles
from fedmeta.report.sections import ReportSection
from fedmeta.report.streamed import (
    REGRET,
    X,
    curve_series,
    matrix_chart,
    mean_curve,
    positions,
    run_charts,
    segments_table,
    summary_table,
)

KEY, TITLE = "streams", "Streams"
_DRIFTS = {
    "tasks": "each is another task of the client",
    "classes": "each has further classes of one task",
    "slow": "the task moves by a small step from each to the next",
}


class Streams(ReportSection):
    """Results on streams of test clients' tasks."""

    order = 65

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        try:
            found = read(run.path)
        except DataError as error:
            return Section(key=KEY, title=TITLE, warning=f"{error}.")
        if found is None:
            return None
        note = f"Intervals are over {found.clients:,} test clients."
        return Section(
            key=KEY,
            title=TITLE,
            text=_text(found),
            warning=_diverged({found.algorithm: [found]}),
            figures=[*figures_of(run_charts(found)), Figure(matrix_chart(found))],
            tables=[
                summary_table({found.algorithm: [found]}, found.measure, note),
                segments_table(found),
            ],
        )

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section | None:
        found, problems = _of_arms(arms)
        if not found:
            return Section(KEY, TITLE, warning=" ".join(problems)) if problems else None
        first = next(iter(found.values()))[0]
        alike = {
            name: seeds
            for name, seeds in found.items()
            if all(one.sizes == first.sizes for one in seeds)
        }
        problems += [f"{name} had other streams: not shown." for name in found if name not in alike]
        matrices = [
            Figure(matrix_chart(seeds[0], f"stream-matrix-{place}", f", {name}"))
            for place, (name, seeds) in enumerate(alike.items())
        ]
        return Section(
            KEY,
            TITLE,
            text=f"{_text(first)} The matrices are of the first seed.",
            warning=" ".join([*problems, _diverged(alike)]).strip(),
            figures=[*figures_of(_charts(arms, alike)), *matrices],
            tables=[summary_table(alike, first.measure, arms.intervals)],
        )


def _text(found: Record) -> str:
    count, size = len(found.prequential), sum(found.sizes[: found.batches])
    drift = _DRIFTS.get(found.drift, "")
    return (
        f"The examples of {count} segments of {size:,} arrive {found.sizes[0]:,} at a time; {drift}. "
        "Each is predicted, then learned from. The learner is not told where a segment ends."
    )


def _diverged(rows: dict[str, list[Record]]) -> str:
    said = []
    for name, seeds in rows.items():
        bad, every = (sum(getattr(one, key) for one in seeds) for key in ("diverged", "streams"))
        said += [f"{bad:,} of {every:,} streams of {name}"] if bad else []
    return f"Infinite losses, over which there is no mean: {', '.join(said)}." if said else ""


def _of_arms(arms: Arms) -> tuple[dict[str, list[Record]], list[str]]:
    """Return each arm's results by seed, and what could not be read."""
    found: dict[str, list[Record]] = {}
    problems: dict[str, None] = {}
    for arm in arms.all:
        for run in arm.runs:
            path = arms.folder_of(run.run)
            try:
                record = read(path) if path else None
            except DataError as error:
                problems[f"{run.run}: {error}."] = None
                continue
            if record is not None:
                found.setdefault(arm.name, []).append(record)
    return found, [*problems]


def _charts(arms: Arms, found: dict[str, list[Record]]) -> list[Chart]:
    """Return the loss, the summed loss and the regret of each arm along the stream."""
    drawn = [(arm, found[arm.name]) for arm in arms.all if arm.name in found]
    charts = []
    for key, title, y, note in (
        ("loss", "Loss before learning, along the stream", "loss", "Of each batch."),
        ("cumulative", "Summed loss along the stream", "summed loss", "All arms see the same streams."),
        ("regret", "Regret along the stream", "summed loss less the comparator's", REGRET),
    ):
        series = [
            curve_series(
                arms.series(arm, positions(seeds[0])),
                mean_curve([getattr(one, key) for one in seeds]),
            )
            for arm, seeds in drawn
        ]
        charts.append(Chart(f"stream-{key}", title, X, y, series, f"{note} {arms.intervals}"))
    return [chart for chart in charts if not chart.empty]
