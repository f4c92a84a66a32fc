"""Charts and tables of a comparison's arms."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedmeta.experiment.rows import scale_of
from fedmeta.report.charts import Chart, Mark, Series, bounds_of
from fedmeta.report.measured import MOST_STEPS, banded, interval_of, step_names
from fedmeta.report.read import CompareFiles, number
from fedmeta.report.tables import Bytes, Cell, Interval, Table

Arm = dict[str, Any]


class Arms:
    """What a ``compare.json`` says of its arms, drawn.

    Args:
        files: Of the comparison, without a problem.
        beside: Folder of the page, from which links to the runs lead; None: the comparison's.
    """

    def __init__(self, files: CompareFiles, beside: Path | None = None) -> None:
        self.data, self.path = files.data, files.path
        self.beside = beside or files.path
        self.all: list[Arm] = files.data["arms"]
        self.measure: str = files.data["measure"]
        self.scale = scale_of(files.data)
        target = files.data.get("target")
        self.target: dict[str, Any] = target if isinstance(target, dict) else {}
        self.step = int(self.target.get("step", max(files.data["steps"], default=0)))
        self.first = str(self.all[0]["name"]) if self.all else ""
        self.seeds: list[int] = files.data["seeds"]
        # Files of earlier versions, which had intervals over seeds alone, do not say so.
        self.paired = "client" if files.data.get("interval") == "clients" else "seed"

    @property
    def intervals(self) -> str:
        """What means and their intervals are over, in a sentence."""
        if self.paired == "client":
            return "Of one seed; 95% intervals are over its test clients (Student's t)."
        return "Means over seeds, with 95% intervals over seeds (Student's t)."

    def series(self, arm: Arm, x: Sequence[float], mark: Mark = "line") -> Series:
        """Return a series without values in the arm's colour and line."""
        place = self.all.index(arm)
        return Series(arm["name"], x, [], mark=mark, colour=place, dash=place)

    def folder_of(self, run: str) -> Path | None:
        """Return the folder of a run; None if it is not beside the comparison or in it.

        That is where a comparison finds its runs; ``compare.json`` of a stranger may name any folder.
        """
        path = Path(os.path.abspath(self.path / run))
        return path if Path(os.path.abspath(self.path)).parent in path.parents else None

    def finals(self) -> Table:
        """Return the results by arm and adaptation step."""
        return self._by_step("arms", f"{self.measure.capitalize()} by arm", "final", "")

    def differences(self) -> Table:
        """Return the paired differences to the first arm by adaptation step."""
        note = (
            f"Paired by {self.paired}: each arm minus {self.first} with the same {self.paired}, then "
            f"the mean over {self.paired}s."
        )
        return self._by_step("differences", f"Difference to {self.first}", "difference", note)

    def _by_step(self, key: str, title: str, field: str, note: str) -> Table:
        steps = sorted({at["step"] for arm in self.all for at in arm.get(field) or []})
        if len(steps) > MOST_STEPS:
            steps = [*steps[: MOST_STEPS - 1], steps[-1]]
        rows: list[list[Cell]] = []
        for arm in self.all:
            if arm.get(field):
                at = {one["step"]: one for one in reversed(arm[field])}
                rows.append([arm["name"], *(interval(at.get(step)) for step in steps)])
        columns = ["arm", *step_names(steps)]
        return Table(key, title, columns, rows, note)

    def within(self) -> Table:
        """Return each run's result after the last step, with its own intervals and what diverged."""
        rows: list[list[Cell]] = []
        for arm in self.all:
            at = at_step(arm.get("final"), self.step) or {}
            for place, seed in enumerate(self.seeds if "tasks_ci95" in at else ()):
                mean, clients, tasks, diverged = (
                    _at_place(at.get(key), place)
                    for key in ("values", "clients_ci95", "tasks_ci95", "diverged")
                )
                answered = _at_place(arm.get("clients"), place)
                both = (Interval(mean, clients), Interval(mean, tasks))
                rows.append([str(arm["name"]), seed, *both, answered, diverged])
        columns = ["arm", "seed", "± over clients", "± over tasks", "clients", "tasks that diverged"]
        title = f"{self.measure.capitalize()} of each run after {self.step} steps"
        return Table("within", title, columns, rows, WITHIN_NOTE)

    def settings(self) -> Table:
        """Return what each arm is, and how it stands."""
        rows: list[list[Cell]] = [
            [arm["name"], arm.get("what", ""), _assignments(arm), arm["status"], arm.get("error") or ""]
            for arm in self.all
        ]
        columns = ["arm", "what it is", "settings", "status", "error"]
        return Table("what-arms", "What each arm is", columns, rows)

    def forest(self) -> Chart:
        """Return the paired differences to the first arm as a forest plot."""
        arms = [arm for arm in self.all if at_step(arm.get("difference"), self.step)]
        series = []
        for place, arm in enumerate(arms):
            at = at_step(arm["difference"], self.step) or {}
            series.append(banded(self.series(arm, [place], "points"), [at], "mean"))
        return Chart(
            key="forest",
            title=f"Difference to {self.first} after {self.step} steps",
            x=f"difference in {self.measure}",
            y="arm",
            series=series,
            note=f"Paired by {self.paired}; bars are 95% intervals over {self.paired}s. An interval "
            "that holds zero leaves open which arm is better.",
            labels=[arm["name"] for arm in arms],
            flip=True,
            line=0.0,
            line_name="no difference",
        )

    def curve(self, field: str, label: str, unit: float = 1.0) -> Chart:
        """Return the looks at the test clients against rounds, tasks or bytes.

        Args:
            field: ``round``, ``tasks`` or ``bytes``.
            label: Of the horizontal axis.
            unit: How much of the field one of the axis is.
        """
        series = []
        for arm in self.all:
            rows = [row for row in arm.get("curve") or [] if number(row, field) is not None]
            # An arm that sends nothing has no place on an axis of bytes.
            if rows and rows[-1][field]:
                one = self.series(arm, [row[field] / unit for row in rows])
                series.append(banded(one, rows, "mean"))
        return Chart(
            key=f"curve-{field}",
            title=f"{self.measure.capitalize()} against {label}",
            x=label,
            y=f"{self.measure} after {self.step} steps",
            bounds=bounds_of(self.scale),
            series=series,
            note=f"Looks at the test clients. {self.intervals}",
            line=self.target.get("value"),
            line_name="target" if self.target else "",
        )

    def adaptation(self) -> Chart:
        """Return each arm's results by adaptation step."""
        series = []
        for arm in self.all:
            if rows := arm.get("final"):
                one = self.series(arm, [row["step"] for row in rows], "line+points")
                series.append(banded(one, rows, "mean"))
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
        """Return what each arm spent, and what it took to reach the target."""
        columns = {name: cell for name, cell in _COSTS.items() if self.target or "target" not in name}
        rows = [[cell(arm) for cell in columns.values()] for arm in self.all]
        note = (
            "Bytes of arrays over the whole run, mean over seeds. Seeds that did not reach the target "
            "are left out of the means to it."
        )
        return Table("costs", "Costs by arm", list(columns), rows, note)


WITHIN_NOTE = (
    "95% intervals of the one run: over clients for new clients, over tasks for new tasks of the same "
    "clients; neither tells of training again. Clients are those that answered in every arm. A task "
    "that diverged counts as the worst: its accuracy is 0 and its loss infinite."
)


def _at_place(values: object, place: int) -> float | None:
    found = values[place] if isinstance(values, list) and place < len(values) else None
    return number({"": found}, "")


def _to_target(arm: Arm) -> dict[str, Any]:
    return arm.get("to_target") or {}


_COSTS: dict[str, Callable[[Arm], Cell]] = {
    "arm": lambda arm: str(arm["name"]),
    "rounds": lambda arm: number(arm, "rounds"),
    "tasks": lambda arm: number(arm, "tasks"),
    "inner steps": lambda arm: number(arm, "inner_steps"),
    "local steps": lambda arm: number(arm, "local_steps"),
    "wall time in s": lambda arm: over(arm.get("wall_seconds")),
    "sent to clients": lambda arm: Bytes(number(arm, "bytes_down")),
    "sent by clients": lambda arm: Bytes(number(arm, "bytes_up")),
    "seeds that reached the target": lambda arm: number(_to_target(arm), "reached"),
    "rounds to target": lambda arm: over(_to_target(arm).get("rounds")),
    "MB to target": lambda arm: over(_to_target(arm).get("bytes"), 1e6),
}


def at_step(rows: object, step: int) -> dict[str, Any] | None:
    """Return the entry of an adaptation step; None if there is none."""
    for row in rows if isinstance(rows, list) else ():
        if row["step"] == step:
            return dict(row)
    return None


def interval(at: dict[str, Any] | None) -> Interval | None:
    """Return an entry's mean and interval."""
    return interval_of(at, "mean") if at else None


def over(value: object, unit: float = 1.0) -> Interval | None:
    """Return a mean over seeds with its interval, in another unit; None if there is none."""
    if not isinstance(value, dict) or (mean := number(value, "mean")) is None:
        return None
    half = number(value, "ci95")
    return Interval(mean / unit, None if half is None else half / unit)


def _assignments(arm: Arm) -> str:
    settings = arm.get("settings")
    return ", ".join(_pairs(settings)) if isinstance(settings, dict) else ""


def _pairs(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings as they are given on the command line."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}"
