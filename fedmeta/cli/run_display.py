"""Live progress and result table of a run."""

import shlex
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from fedmeta.cli.screen import Screen
from fedmeta.cli.tables import earnings_table, final_table, reasons_table, replies_line, settled_line
from fedmeta.config import experiment_names
from fedmeta.errors import UntrainedError
from fedmeta.experiment import Config, Listener, Result, RunFolder
from fedmeta.experiment.result import ignore

if TYPE_CHECKING:
    from fedmeta.federation import RoundRecord

PLAIN_LINE_SECONDS = 5.0


class _TimeLeft(ProgressColumn):
    """Time left, from the average pace; rich's own column uses only the last 1,000 updates."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["first"]
        if not done or task.elapsed is None:
            return Text("-:--", style="cyan")
        left = task.elapsed / done * task.remaining if task.remaining else 0.0
        return Text(f"{int(left) // 60}:{int(left) % 60:02d} left", style="cyan")


class Display(Screen):
    """Shows a run's progress: live on a terminal, as plain lines elsewhere.

    Args:
        quiet_stdout: Keep stdout for JSON; progress goes to stderr as plain lines.
        debug: Print the tracebacks of clients' code.
    """

    def __init__(self, quiet_stdout: bool, debug: bool = False) -> None:
        super().__init__(quiet_stdout, PLAIN_LINE_SECONDS)
        # The first round is shown at once.
        self._last_line = float("-inf")
        self.listener = Listener(
            self._started,
            self._round,
            self._testing,
            self._settling,
            self._note,
            self._traceback if debug else ignore,
        )
        self._folder: RunFolder | None = None
        self._config: Config | None = None
        self._rounds = 0
        self._done_before = 0
        self._tasks = 0
        self._quarantined = 0
        self._missed = 0
        self._began = time.monotonic()

    def _started(self, folder: RunFolder, config: Config, done: int) -> None:
        self._folder, self._rounds, self._done_before = folder, config.rounds, done
        self._config = config
        self._began = time.monotonic()
        held_out = config.validation_clients + config.test_clients
        where = f", resuming after round {done}" if done else ""
        training = "" if config.training == "federated" else f", {config.training}"
        self.console.print(
            f"{config.algorithm} on {config.task}{training}: {config.clients} clients "
            f"({held_out} held out), {config.cohort} a round, {config.rounds} rounds, "
            f"seed {config.seed} -> {folder.path}{where}"
        )
        if self.live:
            progress = self._start(
                TextColumn("round {task.completed}/{task.total}"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                _TimeLeft(),
            )
            progress.add_task("", total=config.rounds, completed=done, first=done)

    def _round(self, record: "RoundRecord") -> None:
        self._tasks += record.tasks
        self._quarantined += record.quarantined
        self._missed += record.late + record.lost
        pace = self._tasks / max(time.monotonic() - self._began, 1e-9)
        parts = [_quality(record), f"{pace:.0f} tasks/s"]
        if record.bytes_down:  # without a federation there are no replies
            missed = f", {self._missed} late or lost" if self._missed else ""
            counts = f"{record.admitted} admitted, {self._quarantined} quarantined{missed} so far"
            parts.insert(1, counts)
        text = " | ".join(parts)
        if self._progress:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=record.round, description=text)
            return
        if self._is_line_due() or record.round == self._rounds:
            done = record.round - self._done_before
            left = (time.monotonic() - self._began) / done * (self._rounds - record.round)
            self.console.print(f"round {record.round}/{self._rounds} | {text} | {left:.0f} s left")

    def _testing(self, clients: int) -> None:
        self._stop()
        if clients:
            self.console.print(f"testing {clients} held-out clients")

    def _settling(self, rounds: int) -> None:
        self.console.print(f"settling {rounds} rounds on the chain")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, UntrainedError) and self._folder:
            self._show_replies(self._folder.info.get("replies"))

    def _show_replies(self, replies: Mapping[str, Any] | None) -> None:
        if replies and (line := replies_line(replies)):
            self.console.print(reasons_table(replies))
            self.console.print(line)

    def show_result(self, result: Result) -> None:
        """Print the result tables and the commands to try next."""
        if result.final:
            self.console.print(final_table(result.experiment, result.final))
        if result.participants:
            self.console.print(earnings_table(result.participants, result.chain is not None))
        if result.chain:
            self.console.print(settled_line(result))
        self._show_replies(result.replies)
        self.console.print(
            f"{result.tasks} training tasks in {result.wall_seconds:.1f} s; the run is in {result.run}"
        )
        commands = list(self._next(result))
        width = max(len(command) for command, _ in commands)
        for command, what in commands:
            self.console.print(f"next: {command:{width}}   {what}", soft_wrap=True)

    def _next(self, result: Result) -> Iterator[tuple[str, str]]:
        """Yield commands to try next, each with what it does."""
        run, folder = shlex.quote(str(result.run)), shlex.quote(str(result.run.parent))
        shipped = result.experiment in experiment_names()
        experiment = result.experiment if shipped else shlex.quote(str(result.run / "config.toml"))
        yield f"fedmeta report {run}", "curves, clients and example tasks, in one HTML file"
        yield (
            "fedmeta serve" + ("" if folder == "runs" else f" {folder}"),
            "all runs in the browser, live",
        )
        if comparison := self._config and comparison_of(self._config):
            options, what = comparison
            yield f"fedmeta compare {experiment} {options}", what
        if adaptation := self._config and adaptation_of(self._config.task):
            options, what = adaptation
            yield f"fedmeta adapt {run} {options}", what


MOST_ARMS = 3
"""Most arms of a config that are suggested by name; with more, all arms are."""


def comparison_of(config: Config) -> tuple[str, str] | None:
    """Return options of `compare` that suit a run, and a note on the time; None if there are none.

    The arms are those that the config sets, as others may need rates of their own; without any, those
    that are comparable at the run's own rates.
    """
    if not config.rounds or not config.test_clients:
        return None
    what = "other methods on the same test tasks"
    own = config.compare.arms or {"centralized": {}, "untrained": {}}
    if len(own) > MOST_ARMS:
        return "--seeds 1", f"{what}; takes several times as long"
    training = sum(name != "untrained" and table.get("rounds") != 0 for name, table in own.items())
    effort = f"takes up to {training + 1} times as long" if training else "takes about as long again"
    arms = ["federated", *(name for name in own if name != "federated")]
    return f"--arms {','.join(arms)} --seeds 1", f"{what}; {effort}"


def adaptation_of(task: str) -> tuple[str, str] | None:
    """Return the options of `adapt` for a task family's runs, and what it does; None if it cannot."""
    from fedmeta.tasks import family_kind
    from fedmeta.tasks.own.spectrograms import SpectrogramOptions

    if task == "table":
        return "--support FILE --query FILE", "predict the rows of another table"
    kind = family_kind(task)
    if not hasattr(kind, "image_style") and not hasattr(kind, "read_files"):
        return None
    what = "sounds" if issubclass(kind.Options, SpectrogramOptions) else "images"
    return "--support DIR --query DIR", f"label {what} of your own"


def _quality(record: "RoundRecord") -> str:
    if record.skipped:
        return "skipped: too few replies admitted"
    main, measures = record.main, record.measures
    if main == "loss":
        return f"loss {_change(record.loss_before, record.loss)}"
    return f"loss {record.loss:.3f}, {main} {_change(measures[f'{main}_before'], measures[main])}"


def _change(before: float, after: float) -> str:
    """Return both values, or one if they are equal, as they are without adaptation steps."""
    return f"{after:.3f}" if before == after else f"{before:.3f} -> {after:.3f}"
