"""The spread of results over test clients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from typing_extensions import override

from fedmeta.comparison.record import ArmRecord
from fedmeta.experiment.rows import TestedRow
from fedmeta.report.arms import Arms
from fedmeta.report.charts import LIMIT, Chart, Series, bounds_of
from fedmeta.report.measured import MOST_STEPS, banded, interval_over_tasks, main_measure, step_names
from fedmeta.report.page import Figure, Section
from fedmeta.report.read import RunFiles, TestReader, number, steps_of
from fedmeta.report.sections import ReportSection
from fedmeta.report.tables import Cell, Table
from fedmeta.tasks import Measure


class Spread(ReportSection):
    """How evenly results are spread over test clients."""

    order = 60

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        measure = main_measure(run)
        charts = spread_charts(run, measure)
        if not charts:
            return None
        scale = run.measures.get(measure, Measure())
        tables = [spread_table(run.test, measure, scale), clients_table(run.test, measure)]
        figures = [Figure(chart) for chart in charts]
        return Section(key="spread", title="Spread over clients", figures=figures, tables=tables)

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section | None:
        rows: list[list[Cell]] = []
        series: list[Series] = []
        reader = TestReader()
        for place, arm in enumerate(arms.all):
            if seeds := _clients_of(arm, arms, reader):
                rows.append([arm.name, *_mean_spread(seeds, arms.scale)])
                values = sorted(value for seed in seeds for value in seed)
                xs = [place - 0.25 + 0.5 * (i + 0.5) / len(values) for i in range(len(values))]
                known = [value if math.isfinite(value) else None for value in values]
                series.append(Series(arm.name, xs, known, mark="points", colour=place))
        if not rows:
            return None
        title = f"{arms.measure.capitalize()} of each test client after {arms.step} steps"
        note = "Each point is a test client of one seed; within an arm they are sorted."
        labels = [arm.name for arm in arms.all]
        chart = Chart("clients", title, "arm", arms.measure, series, note, labels=labels)
        columns = [
            "arm",
            "clients",
            "mean",
            "standard deviation",
            "worst 10%",
            "best 10%",
            "Jain's index",
        ]
        title = f"Spread of {arms.measure} over test clients after {arms.step} steps"
        note = f"Of each seed's test clients, then the mean over seeds. {FAIRNESS}"
        table = Table("spread", title, columns, rows, note)
        return Section(
            "spread",
            "Spread over clients",
            warning=reader.problem or "",
            figures=[Figure(chart)],
            tables=[table],
        )


def _clients_of(arm: ArmRecord, arms: Arms, reader: TestReader) -> list[list[float]]:
    """Return the test clients' results of each seed of an arm that has them."""
    found = []
    for run in arm.runs:
        path = arms.folder_of(run.run)
        by_step = results(reader.read(path), arms.measure, arms.scale) if path else {}
        values = by_step.get(arms.step) or by_step.get(max(by_step, default=0))
        if values:
            found.append(list(values.values()))
    return found


def _mean_spread(seeds: Sequence[Sequence[float]], scale: Measure) -> list[Cell]:
    every = [spread_of(values, scale) for values in seeds]
    columns: list[list[float]] = [
        [one.mean for one in every],
        [one.deviation for one in every],
        [one.worst for one in every],
        [one.best for one in every],
        [one.jain for one in every if one.jain is not None],
    ]
    return [every[0].clients, *(sum(column) / len(column) if column else None for column in columns)]


@dataclass(frozen=True)
class ClientSpread:
    """Clients' results at one adaptation step, each client counted once whatever its size.

    The deviation and the means of the worst and the best tenth are the measures of Li et al. 2020, "Fair
    Resource Allocation in Federated Learning" (q-FFL), section 4; their variance is `deviation` squared.

    Attributes:
        clients: How many.
        mean: Over clients.
        deviation: Standard deviation over clients, as of a population.
        worst: Mean over the worst tenth of clients, at least one.
        best: Mean over the best tenth, at least one.
        jain: Jain's index ``(sum x)^2 / (n sum x^2)``, from 1/n, one client has it all, to 1, all are
            served alike (Jain, Chiu and Hawe 1984, equation 2); of shares of what is good alone, as the
            accuracy.
    """

    clients: int
    mean: float
    deviation: float
    worst: float
    best: float
    jain: float | None


def spread_of(values: Sequence[float], scale: Measure) -> ClientSpread:
    """Return the spread of clients' results.

    Args:
        values: One result for each client.
        scale: What they mean.
    """
    ordered = np.sort(np.array(values, dtype=float))
    if not scale.higher_is_better:
        ordered = ordered[::-1]
    tenth = ceil(len(ordered) / 10)
    squares = float((ordered**2).sum())
    jain = float(ordered.sum()) ** 2 / (len(ordered) * squares) if squares else 1.0
    deviation = float(ordered.std()) if np.isfinite(ordered).all() else math.inf
    return ClientSpread(
        clients=len(ordered),
        mean=float(ordered.mean()),
        deviation=deviation,
        worst=float(ordered[:tenth].mean()),
        best=float(ordered[-tenth:].mean()),
        jain=jain if scale.higher_is_better and scale.low == 0 else None,
    )


_MOST_DRAWN = LIMIT

Results = dict[int, dict[int, float]]


def results(test: Sequence[TestedRow], measure: str, scale: Measure) -> Results:
    """Return each test client's result by adaptation step, from the rows of ``test.jsonl``.

    The mean of a client with a task that diverged is infinite, if there is no worst value, as the
    loss's. Of very many steps the first ones and the
    last are there, see `MOST_STEPS`.
    """
    found: Results = {step: {} for step in steps_in(test)}
    for row in test:
        for at in steps_of(row.get("steps")):
            value = number(at, measure)
            if value is None and scale.worst is None and number(at, "diverged"):
                value = -math.inf if scale.higher_is_better else math.inf
            if value is not None and at["step"] in found:
                found[at["step"]][int(row["client"])] = value
    return found


def steps_in(test: Sequence[TestedRow]) -> list[int]:
    """Return the adaptation steps that ``test.jsonl`` has results of, at most `MOST_STEPS`."""
    steps = sorted({int(at["step"]) for row in test for at in steps_of(row.get("steps"))})
    return steps if len(steps) <= MOST_STEPS else [*steps[: MOST_STEPS - 1], steps[-1]]


def spread_table(test: Sequence[TestedRow], measure: str, scale: Measure) -> Table:
    """Return the spread over test clients by adaptation step."""
    rows: list[list[Cell]] = []
    for step, found in results(test, measure, scale).items():
        if found:
            s = spread_of(list(found.values()), scale)
            rows.append([step, s.clients, s.mean, s.deviation, s.worst, s.best, s.jain])
    columns = ["adaptation steps", "clients", f"mean {measure}", "standard deviation"]
    columns += ["worst 10% of clients", "best 10% of clients", "Jain's index"]
    return Table(f"spread-{measure}", f"Spread of {measure} over test clients", columns, rows, FAIRNESS)


FAIRNESS = (
    "Each client counts once. Worst and best 10%: the mean over that tenth of clients, at least one; "
    "these and the deviation are the fairness measures of Li et al. (2020), “Fair Resource Allocation "
    "in Federated Learning”. Jain's index, (Σx)² / (n Σx²), is 1 where all clients have the same "
    "accuracy and 1/n where one has all of it (Jain, Chiu and Hawe, 1984). With few clients all of "
    "these are rough."
)


def clients_table(test: Sequence[TestedRow], measure: str) -> Table:
    """Return each test client's results by adaptation step."""
    steps = steps_in(test)
    rows: list[list[Cell]] = []
    for row in sorted(test, key=lambda one: int(one["client"])):
        at = {int(one["step"]): one for one in steps_of(row.get("steps"))}
        values = (interval_over_tasks(at[step], measure) if step in at else None for step in steps)
        rows.append([int(row["client"]), *values])
    columns = ["client", *step_names(steps)]
    note = "Means over the client's own tasks, with 95% intervals over them."
    return Table(
        f"test-clients-{measure}", f"{measure.capitalize()} of each test client", columns, rows, note
    )


def spread_charts(run: RunFiles, measure: str) -> list[Chart]:
    """Return each test client's result before and after adaptation, from the worst to the best."""
    steps = steps_in(run.test)
    if not steps:
        return []
    scale = run.measures.get(measure, Measure())
    after = results(run.test, measure, scale)[steps[-1]]
    down = not scale.higher_is_better
    order = sorted(after, key=lambda client: (after[client], client), reverse=down)
    count = len(order)
    if count > _MOST_DRAWN:
        order = [order[round(i * (count - 1) / (_MOST_DRAWN - 1))] for i in range(_MOST_DRAWN)]
    series = [
        _points(run.test, measure, step, order, place)
        for place, step in ((0, steps[-1]), (1, steps[0]))
        if place == 0 or len(steps) > 1
    ]
    note = "Bars are 95% intervals over the client's own tasks."
    if count > len(order):
        note += f" Drawn are {len(order):,} of {count:,} clients, at equal distances."
    chart = Chart(
        key=f"clients-{measure}",
        title=f"{measure.capitalize()} of each test client",
        x="test client, the worst first",
        y=measure,
        bounds=bounds_of(scale),
        series=series,
        note=note,
        labels=[str(client) for client in order],
    )
    return [] if chart.empty else [chart]


def _points(
    test: Sequence[TestedRow], measure: str, step: int, order: Sequence[int], colour: int
) -> Series:
    rows = {
        int(row["client"]): at for row in test for at in steps_of(row.get("steps")) if at["step"] == step
    }
    name = "before adaptation" if step == 0 else f"after {step} steps"
    series = Series(name, list(range(len(order))), [], mark="points", colour=colour)
    found = [rows.get(client, {}) for client in order]
    return banded(series, found, measure, interval_over_tasks)
