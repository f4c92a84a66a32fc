"""Communication of a run, and costs of a comparison's arms."""

from collections.abc import Iterable
from itertools import accumulate

from typing_extensions import override

from fedmeta.experiment.rows import MetricsRow
from fedmeta.report.arms import Arms
from fedmeta.report.charts import Chart, Series, bounds_of
from fedmeta.report.measured import main_measure
from fedmeta.report.page import Section, figures_of
from fedmeta.report.read import RunFiles, number
from fedmeta.report.sections import ReportSection
from fedmeta.report.sections.learning import COLOURS, curves
from fedmeta.report.tables import Bytes, shown


class Communication(ReportSection):
    """Communication and costs."""

    order = 50

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        charts = communication_charts(run)
        if not charts:
            return None
        down, up = (
            sum(number(row, key) or 0 for row in run.metrics) for key in ("bytes_down", "bytes_up")
        )
        facts = [("To the clients", shown(Bytes(down))), ("From the clients", shown(Bytes(up)))]
        return Section(
            key="communication", title="Communication", facts=facts, figures=figures_of(charts)
        )

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section:
        chart, text = arms.curve("bytes", "megabytes sent, both ways", 1e6), ""
        if arms.target:
            where = f"{arms.measure} {shown(arms.target.value)} after {arms.step} steps"
            text = f"The target is {where}: {arms.target.why or 'as set'}."
        return Section(
            key="costs",
            title="Costs and communication",
            text=text,
            figures=[] if chart.empty else figures_of([chart]),
            tables=[arms.costs()],
        )


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
        for one in curves(run, measure)
        if one.colour != COLOURS["before"]
    ]
    chart = Chart(
        key=f"communication-{measure}",
        title=f"{measure.capitalize()} against communicated bytes",
        x="megabytes sent so far, to and from clients",
        y=measure,
        bounds=bounds_of(run.measures.get(measure)),
        series=series,
        note="Bytes of arrays in requests and replies, summed over all rounds so far.",
    )
    return [] if chart.empty else [chart]


def sent_bytes(metrics: Iterable[MetricsRow]) -> list[float]:
    """Return the bytes that were sent up to each round, to and from the clients."""
    both = ((number(row, "bytes_down") or 0) + (number(row, "bytes_up") or 0) for row in metrics)
    return list(accumulate(both))
