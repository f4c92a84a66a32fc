"""Charts and tables of results on streams."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from fedmeta.comparison.statistics import estimate
from fedmeta.experiment.streams import Curve, Estimate, Streams
from fedmeta.report.charts import Chart, Heatmap, Series, Values, band
from fedmeta.report.tables import Cell, Interval, Table

X = "examples so far"
REGRET = (
    "The comparator is the same method, which begins anew in each segment and is given all of it at "
    "once; a regret below 0 means that predicting and learning in turn did better. A method that learns "
    "poorly has a poor comparator, and little regret."
)


def positions(found: Streams) -> list[float]:
    """Return how many examples have come after each batch."""
    return [float(one) for one in accumulate(found.sizes)]


def curve_series(series: Series, curve: Curve) -> Series:
    """Return a series with the values of a curve and its intervals as a band."""
    return band(series, curve.mean, curve.ci95)


def run_charts(found: Streams) -> list[Chart]:
    """Return the loss, the summed loss and the regret along a run's streams."""
    x = positions(found)
    segment = sum(found.sizes[: found.batches])
    over = (
        f"Means over {found.streams:,} streams; bands are 95% intervals over {found.clients:,} clients."
    )
    changes = f"A segment has {segment:,} examples."
    known = zip(found.cumulative.mean, found.regret.mean, strict=True)
    ahead: Values = [None if c is None or r is None else c - r for c, r in known]
    summed = [
        curve_series(Series("predicts, then learns", x, [], colour=0, dash=0), found.cumulative),
        curve_series(Series("never learns", x, [], colour=1, dash=1), found.still),
        Series("is given each segment at once", x, ahead, colour=2, dash=2),
    ]
    loss = curve_series(Series("loss", x, []), found.loss)
    regret = curve_series(Series("regret", x, []), found.regret)
    return [
        Chart(
            "stream-loss",
            "Loss before learning, along the stream",
            X,
            "loss",
            [loss],
            f"The loss of each batch before it is learned from. {changes} {over}",
        ),
        Chart("stream-sum", "Summed loss along the stream", X, "summed loss", summed, over),
        Chart(
            "stream-regret",
            "Regret along the stream",
            X,
            "summed loss less the comparator's",
            [regret],
            f"{REGRET} {over}",
            line=0.0,
            line_name="the comparator",
        ),
    ]


def matrix_chart(found: Streams, key: str = "stream-matrix", of: str = "") -> Heatmap:
    """Return the matrix of results on each segment after each segment."""
    count = len(found.prequential)
    rows = ["before the stream", *(f"after segment {i}" for i in range(1, count + 1))]
    return Heatmap(
        key,
        f"{found.measure.capitalize()} on each segment{of}",
        "tested on segment",
        "",
        [*range(1, count + 1)],
        rows,
        found.matrix,
        found.measure,
        "On test examples that are never learned from. Below the diagonal are earlier segments, which "
        "may be forgotten; above it later ones.",
        signed=False,
    )


def segments_table(found: Streams) -> Table:
    """Return the main measure of predictions made before learning, by segment."""
    rows: list[list[Cell]] = [
        [place, Interval(one.mean, one.ci95)] for place, one in enumerate(found.prequential, 1)
    ]
    note = "Of each prediction before its label was learned from (prequential)."
    return Table(
        "stream-segments",
        f"{found.measure.capitalize()} by segment",
        ["segment", found.measure],
        rows,
        note,
    )


def summary_table(rows: Mapping[str, Sequence[Streams]], measure: str, note: str) -> Table:
    """Return what streams come to, a row for each run or arm.

    Args:
        rows: The results of each seed, by the row's name.
        measure: The main measure.
        note: What the intervals are over.
    """
    cells: list[list[Cell]] = []
    for name, seeds in rows.items():
        columns = zip(*(one.summary.values() for one in seeds), strict=True)
        cells.append([name, *(_interval(column) for column in columns)])
    names = ["", *next(iter(rows.values()))[0].summary]
    about = (
        f"Losses and regret are per example of a stream. At the end: mean {measure} on all segments "
        "after the last (ACC). Transfer and forgetting are differences in it; above 0, transfer is "
        "better and forgetting worse."
    )
    return Table("streams", "What streams come to", names, cells, f"{about} {note}")


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean over seeds with its interval over them; of one seed its own."""
    if len(curves) == 1:
        return curves[0]
    found = [estimate(values) for values in zip(*(one.mean for one in curves), strict=True)]
    return Curve(mean=[one.mean for one in found], ci95=[one.ci95 for one in found])


def _interval(seeds: Sequence[Estimate]) -> Interval:
    if len(seeds) == 1:
        return Interval(seeds[0].mean, seeds[0].ci95)
    found = estimate([one.mean for one in seeds])
    return Interval(found.mean, found.ci95)
