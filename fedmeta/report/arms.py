"""Charts and tables of a comparison's arms."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fedmeta.comparison.record import ArmRecord, AtStep, CompareRecord, CurvePoint, Over
from fedmeta.experiment.rows import scale_of
from fedmeta.report.charts import Chart, Mark, Series, band, bounds_of
from fedmeta.report.measured import MOST_STEPS, step_names
from fedmeta.report.tables import Bytes, Cell, Interval, Table


class Arms:
    """The arms in a ``compare.json``.

    Args:
        record: What it says.
        path: The comparison's folder.
        beside: Folder of the page, from which links to the runs lead; None: the comparison's.
        readable: Whether a run's folder may be read and linked to.
    """

    def __init__(
        self,
        record: CompareRecord,
        path: Path,
        beside: Path | None = None,
        readable: Callable[[Path], bool] = lambda _: True,
    ) -> None:
        self.record, self.path = record, path
        self.beside = beside or path
        self._readable = readable
        self.all = record.arms
        self.measure = record.measure
        self.scale = scale_of(record.measure, record.scale)
        self.target = record.target
        self.step = self.target.step if self.target else max(record.steps, default=0)
        self.first = self.all[0].name if self.all else ""
        self.paired = "client" if record.interval == "clients" else "seed"

    @property
    def intervals(self) -> str:
        """What the means and intervals are over, as a sentence."""
        if self.paired == "client":
            return "Of one seed; 95% intervals are over its test clients (Student's t)."
        return "Means over seeds, with 95% intervals over seeds (Student's t)."

    def series(self, arm: ArmRecord, x: Sequence[float], mark: Mark = "line") -> Series:
        """Return a series in the arm's colour and line style, without values."""
        place = next(place for place, one in enumerate(self.all) if one is arm)
        return Series(arm.name, x, [], mark=mark, colour=place, dash=place)

    def folder_of(self, run: str) -> Path | None:
        """Return the folder of a run; None if it is not near the comparison, or may not be read.

        That is where a comparison finds its runs; a ``compare.json`` from elsewhere may name any folder.
        """
        path = Path(os.path.abspath(self.path / run))
        near = Path(os.path.abspath(self.path)).parent in path.parents
        return path if near and self._readable(path) else None

    def finals(self) -> Table:
        """Return the results by arm and adaptation step."""
        title = f"{self.measure.capitalize()} by arm"
        return self._by_step("arms", title, lambda arm: arm.final, "")

    def differences(self) -> Table:
        """Return the paired differences to the first arm by adaptation step."""
        note = (
            f"Paired by {self.paired}: each arm minus {self.first} with the same {self.paired}, then "
            f"the mean over {self.paired}s."
        )
        title = f"Difference to {self.first}"
        return self._by_step("differences", title, lambda arm: arm.difference, note)

    def _by_step(
        self, key: str, title: str, field: Callable[[ArmRecord], Sequence[AtStep] | None], note: str
    ) -> Table:
        steps = sorted({at.step for arm in self.all for at in field(arm) or ()})
        if len(steps) > MOST_STEPS:
            steps = [*steps[: MOST_STEPS - 1], steps[-1]]
        rows: list[list[Cell]] = []
        for arm in self.all:
            if found := field(arm):
                at = {one.step: interval(one) for one in reversed(found)}
                rows.append([arm.name, *(at.get(step) for step in steps)])
        columns = ["arm", *step_names(steps)]
        return Table(key, title, columns, rows, note)

    def within(self) -> Table:
        """Return each run's result after the last step, with its own intervals and diverged tasks."""
        rows: list[list[Cell]] = []
        for arm in self.all:
            at = at_step(arm.final, self.step)
            for place, seed in enumerate(self.record.seeds if at and at.tasks_ci95 else ()):
                assert at is not None
                mean = _at_place(at.values, place)
                clients, tasks = _at_place(at.clients_ci95, place), _at_place(at.tasks_ci95, place)
                answered, diverged = _at_place(arm.clients, place), _at_place(at.diverged, place)
                both = (Interval(mean, clients), Interval(mean, tasks))
                rows.append([arm.name, seed, *both, answered, diverged])
        columns = ["arm", "seed", "± over clients", "± over tasks", "clients", "tasks that diverged"]
        title = f"{self.measure.capitalize()} of each run after {self.step} steps"
        return Table("within", title, columns, rows, WITHIN_NOTE)

    def settings(self) -> Table:
        """Return each arm's description, settings and status."""
        rows: list[list[Cell]] = [
            [arm.name, arm.what, ", ".join(_pairs(arm.settings)), arm.status, arm.error or ""]
            for arm in self.all
        ]
        columns = ["arm", "what it is", "settings", "status", "error"]
        return Table("what-arms", "What each arm is", columns, rows)

    def forest(self) -> Chart:
        """Return the paired differences to the first arm as a forest plot."""
        arms = [arm for arm in self.all if at_step(arm.difference, self.step)]
        series = []
        for place, arm in enumerate(arms):
            at = at_step(arm.difference, self.step)
            series.append(_banded(self.series(arm, [place], "points"), [at] if at else []))
        return Chart(
            key="forest",
            title=f"Difference to {self.first} after {self.step} steps",
            x=f"difference in {self.measure}",
            y="arm",
            series=series,
            note=f"Paired by {self.paired}; bars are 95% intervals over {self.paired}s. Where "
            "an interval contains zero, either arm may be better.",
            labels=[arm.name for arm in arms],
            flip=True,
            line=0.0,
            line_name="no difference",
        )

    def curve(self, field: str, label: str, unit: float = 1.0) -> Chart:
        """Return the tracked test results against rounds, tasks or bytes.

        Args:
            field: ``round``, ``tasks`` or ``bytes``.
            label: Of the horizontal axis.
            unit: How much of the field one of the axis is.
        """
        series = []
        for arm in self.all:
            known = [(getattr(row, field), row) for row in arm.curve or ()]
            known = [(x, row) for x, row in known if x is not None]
            # An arm that sends nothing cannot be drawn against bytes.
            if known and known[-1][0]:
                one = self.series(arm, [x / unit for x, _ in known])
                series.append(_banded(one, [row for _, row in known]))
        return Chart(
            key=f"curve-{field}",
            title=f"{self.measure.capitalize()} against {label}",
            x=label,
            y=f"{self.measure} after {self.step} steps",
            bounds=bounds_of(self.scale),
            series=series,
            note=f"Test clients, tracked during training. {self.intervals}",
            line=self.target.value if self.target else None,
            line_name="target" if self.target else "",
        )

    def adaptation(self) -> Chart:
        """Return each arm's results by adaptation step."""
        series = []
        for arm in self.all:
            if arm.final:
                one = self.series(arm, [at.step for at in arm.final], "line+points")
                series.append(_banded(one, arm.final))
        return Chart(
            key="adaptation",
            title=f"{self.measure.capitalize()} by adaptation step",
            x="adaptation steps on the support set",
            y=self.measure,
            bounds=bounds_of(self.scale),
            series=series,
            note=self.intervals,
        )

    def costs(self) -> Table:
        """Return each arm's costs, and the costs of reaching the target."""
        columns = {name: cell for name, cell in _COSTS.items() if self.target or "target" not in name}
        rows = [[cell(arm) for cell in columns.values()] for arm in self.all]
        note = (
            "Bytes of arrays over the whole run, mean over seeds. Means to the target leave out seeds "
            "that did not reach it."
        )
        return Table("costs", "Costs by arm", list(columns), rows, note)


WITHIN_NOTE = (
    "95% intervals within one run: over clients for new clients, over tasks for new tasks of the same "
    "clients; neither covers training again. Clients are those that answered in every arm. A task "
    "that diverged counts as the worst: its accuracy is 0 and its loss infinite."
)


ValueT = TypeVar("ValueT")


def _at_place(values: Sequence[ValueT | None], place: int) -> ValueT | None:
    return values[place] if place < len(values) else None


def _banded(series: Series, rows: Sequence[AtStep | CurvePoint]) -> Series:
    """Return a series with means as its values and their intervals as a band around them."""
    return band(series, [row.mean for row in rows], [row.ci95 for row in rows])


_COSTS: dict[str, Callable[[ArmRecord], Cell]] = {
    "arm": lambda arm: arm.name,
    "rounds": lambda arm: arm.rounds,
    "tasks": lambda arm: arm.tasks,
    "inner steps": lambda arm: arm.inner_steps,
    "local steps": lambda arm: arm.local_steps,
    "wall time in s": lambda arm: _over(arm.wall_seconds),
    "sent to clients": lambda arm: Bytes(arm.bytes_down),
    "sent by clients": lambda arm: Bytes(arm.bytes_up),
    "seeds that reached the target": lambda arm: arm.to_target.reached if arm.to_target else None,
    "rounds to target": lambda arm: _over(arm.to_target.rounds if arm.to_target else None),
    "MB to target": lambda arm: _over(arm.to_target.bytes if arm.to_target else None, 1e6),
}


def at_step(rows: Sequence[AtStep] | None, step: int) -> AtStep | None:
    """Return the entry of an adaptation step; None if there is none."""
    return next((row for row in rows or () if row.step == step), None)


def interval(at: AtStep) -> Interval:
    """Return a result's mean and interval."""
    return Interval(at.mean, at.ci95)


def _over(value: Over | None, unit: float = 1.0) -> Interval | None:
    """Return a mean over seeds with its interval, in another unit; None if there is none."""
    if value is None or value.mean is None:
        return None
    return Interval(value.mean / unit, None if value.ci95 is None else value.ci95 / unit)


def _pairs(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings in the form of the command line."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}"
