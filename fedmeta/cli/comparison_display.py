"""Live progress and result tables of a comparison."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedmeta.cli.screen import Screen
from fedmeta.comparison.compare import CompareListener, Comparison
from fedmeta.comparison.search import PREFIX as SEARCH
from fedmeta.comparison.status import Job
from fedmeta.experiment.result import ignore

PLAIN_LINE_SECONDS = 10.0
MEGABYTE = 1e6


class ComparisonDisplay(Screen):
    """Shows a comparison's progress: live on a terminal, as plain lines elsewhere.

    Args:
        quiet_stdout: Keep stdout for JSON; progress goes to stderr as plain lines.
        debug: Print the tracebacks of clients' code.
    """

    def __init__(self, quiet_stdout: bool, debug: bool = False) -> None:
        super().__init__(quiet_stdout, PLAIN_LINE_SECONDS)
        self.listener = CompareListener(
            self._began,
            self._changed,
            self._advanced,
            self._note,
            self._traceback if debug else ignore,
        )
        self._bars: dict[str, TaskID] = {}
        self._began_at: dict[str, float] = {}
        self._done = self._all = 0

    def _began(self, folder: Path, jobs: Sequence[Job]) -> None:
        done = sum(job.status == "finished" for job in jobs)
        begun = sum(job.slot.state == "begun" for job in jobs)
        states = [f"{done} finished before"] * bool(done) + [f"{begun} begun"] * bool(begun)
        known = f" ({', '.join(states)})" if states else ""
        searching = any(job.name.startswith(SEARCH) for job in jobs)
        what = "runs to choose settings" if searching else "runs"
        self.console.print(f"{len(jobs)} {what}{known} -> {folder}")
        self._all += len(jobs)
        self._done += done
        if self._progress:
            self._progress.update(self._bars[""], total=self._all, completed=self._done)
        elif self.live and self._done < self._all:
            progress = self._start(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
            )
            self._bars[""] = progress.add_task("runs", total=self._all, completed=self._done)

    def _changed(self, job: Job) -> None:
        if job.status == "running":
            self._began_at[job.name] = time.monotonic()
            if self._progress:
                self._bars[job.name] = self._progress.add_task(job.name, total=job.config.rounds)
            return
        self._done += 1
        if self._progress:
            self._progress.remove_task(self._bars.pop(job.name))
            self._progress.update(self._bars[""], completed=self._done)
        seconds = time.monotonic() - self._began_at[job.name]
        how = f"failed: {job.error}" if job.status == "failed" else f"finished in {seconds:.1f} s"
        self.console.print(f"{self._done}/{self._all} {job.name} {how}")

    def _advanced(self, job: Job, done: int, rounds: int) -> None:
        if self._progress:
            self._progress.update(self._bars[job.name], completed=done)
        elif self._is_line_due():
            self.console.print(f"{self._done}/{self._all} {job.name} round {done}/{rounds}")

    def show_result(self, result: Comparison) -> None:
        """Print the arms' results and costs."""
        data = result.data
        self.console.print(results_table(data))
        self.console.print(costs_table(data))
        for line in chosen_settings(data):
            self.console.print(line, markup=False, soft_wrap=True)
        for line in result.failures:
            self._note(line)
        self.console.print(
            f"{self._all} runs in {data['wall_seconds']:.1f} s; the comparison is in {result.folder}"
        )


def results_table(data: Mapping[str, Any]) -> Table:
    """Return each arm's accuracy or loss by adaptation step, and its difference from the first arm."""
    what = f"{data['experiment']}: {data['measure']} of held-out clients by adaptation steps"
    title = f"{what}, mean and 95% interval over {_repetitions(data)}"
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("arm", no_wrap=True)  # the other columns wrap in a narrow terminal
    for step in data["steps"]:
        table.add_column(str(step) if step else "before", justify="right")
    one_seed = data["interval"] == "clients"
    if one_seed:
        table.add_column("over tasks", justify="right")
    table.add_column("minus first", justify="right")
    for arm in data["arms"]:
        cells = [_interval(one) for one in arm["final"]]
        if one_seed:
            [half] = arm["final"][-1]["tasks_ci95"]
            cells.append("-" if half is None else f"± {half:.3f}")
        cells.append(_interval(arm["difference"][-1], "+.3f") if arm["difference"] else "")
        table.add_row(arm["name"], *cells)
    table.caption = "\n".join(_reservations(data)) or None
    return table


def _repetitions(data: Mapping[str, Any]) -> str:
    seeds, clients = len(data["seeds"]), data["test_clients"]
    if data["interval"] == "seeds":
        return f"{seeds} seeds"
    return f"{clients} client{'s' if clients > 1 else ''} (one seed)"


def _reservations(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield caveats on the means: clients that did not answer, and tasks that diverged."""
    asked = data["test_clients"]
    for place, seed in enumerate(data["seeds"]):
        answered = min((arm["clients"][place] or asked for arm in data["arms"]), default=asked)
        if answered < asked:
            yield f"seed {seed}: over the {answered} of {asked} clients that answered in every arm"
    for arm in data["arms"]:
        diverged = {step["step"]: sum(n or 0 for n in step["diverged"]) for step in arm["final"]}
        steps = ", ".join(f"{count} {_when(step)}" for step, count in diverged.items() if count)
        if steps:
            yield f"{arm['name']}: tasks that diverged and count as the worst: {steps}"


def chosen_settings(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line about each arm whose settings were chosen on validation clients."""
    for arm in data["arms"]:
        trials = arm.get("search", ())
        for one in (one for one in trials if one["chosen"]):
            settings = ", ".join(f"{key} = {value}" for key, value in one["settings"].items())
            score = f"{data['measure']} {one['value']:.3f} on validation clients"
            yield f"{arm['name']}: {settings} ({score}), the best of {len(trials)}"
        if trials and not any(one["chosen"] for one in trials):
            yield f"{arm['name']}: all {len(trials)} runs of its search failed: {trials[0]['error']}"


def costs_table(data: Mapping[str, Any]) -> Table:
    """Return each arm's costs, and when it reached the target."""
    target = data["target"]
    title = "costs"
    if target:
        title += (
            f"; the target is {data['measure']} {target['value']:.3f} {_when(target['step'])}, "
            f"{target['why']}"
        )
    table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 0, 0, 1))
    table.add_column("arm", no_wrap=True)  # the other columns wrap in a narrow terminal
    names = (
        "rounds",
        "tasks",
        "s",
        "MB down",
        "MB up",
        "rounds to target",
        "MB to target",
        "reached",
    )
    for name in names:
        table.add_column(name, justify="right")
    for arm in data["arms"]:
        reach = arm["to_target"] or {"rounds": {}, "bytes": {}, "reached": 0}
        table.add_row(
            arm["name"],
            str(arm["rounds"]),
            f"{arm['tasks']:.0f}",
            _number(arm["wall_seconds"]["mean"], ".1f"),
            _megabytes(arm["bytes_down"]),
            _megabytes(arm["bytes_up"]),
            _number(reach["rounds"].get("mean"), ".0f"),
            _megabytes(reach["bytes"].get("mean")),
            f"{reach['reached']}/{len(data['seeds'])}",
        )
    return table


def _when(step: int) -> str:
    return f"after {step} step{'s' if step > 1 else ''}" if step else "before adaptation"


def _interval(one: Mapping[str, Any], form: str = ".3f") -> str:
    if one["mean"] is None:
        return "inf" if any(one.get("diverged", ())) else "-"
    mean = format(one["mean"], form)
    return mean if one["ci95"] is None else f"{mean} ± {one['ci95']:.3f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _megabytes(value: float | None) -> str:
    return _number(None if value is None else value / MEGABYTE, ".1f")
