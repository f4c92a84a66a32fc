"""`run`, `resume`, `compare` and `load`, which show progress and results as HTML in notebooks."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fedmeta.comparison import compare as comparing
from fedmeta.experiment import Config, Listener, RunFolder, api
from fedmeta.experiment.learned.model import Learned
from fedmeta.experiment.result import Result
from fedmeta.report.snippet import compare_snippet, run_snippet

if TYPE_CHECKING:
    from fedmeta.comparison.status import Job
    from fedmeta.federation import RoundRecord

P = ParamSpec("P")
R = TypeVar("R")

UPDATE_SECONDS = 0.5


class Bar:
    """A progress bar in a notebook's output; replaced at most every `UPDATE_SECONDS`.

    Args:
        display: IPython's `display`: shows an object as HTML and returns a handle to update it.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None
        self._shown = float("-inf")
        self._began = time.monotonic()
        self._first = 0
        self._finished: set[str] = set()
        self._runs = 0
        self.listener = Listener(
            started=self._started,
            round=self._round,
            testing=lambda n: self._show(1, 1, f"testing {n} held-out clients", now=True),
            settling=lambda n: self._show(1, 1, f"settling {n} rounds on the chain", now=True),
            note=print,
        )
        self.compare_listener = comparing.CompareListener(
            began=self._compare_began, changed=self._changed, progress=self._progress, note=print
        )

    def _started(self, folder: RunFolder, config: Config, done: int) -> None:
        self._total, self._first, self._name = config.rounds, done, str(folder.path)
        self._show(
            done, config.rounds, f"{config.algorithm} on {config.task} -> {folder.path}", now=True
        )

    def _round(self, record: "RoundRecord") -> None:
        done, total = record.round, self._total
        left = (time.monotonic() - self._began) / max(done - self._first, 1) * (total - done)
        main = record.main
        value = "skipped" if record.skipped else f"{main} {record.measures[main]:.3f}"
        text = f"round {done}/{total} | {value} | {left:.0f} s left | {self._name}"
        self._show(done, total, text, now=done == total)

    def _compare_began(self, folder: Path, jobs: Sequence["Job"]) -> None:
        self._runs, self._name = self._runs + len(jobs), str(folder)
        self._finished |= {job.name for job in jobs if job.status == "finished"}
        self._show(len(self._finished), self._runs, f"{self._runs} runs -> {folder}", now=True)

    def _changed(self, job: "Job") -> None:
        if job.status == "finished":
            self._finished.add(job.name)
        self._compare_show(f"{job.name}: {job.status}", now=True)

    def _progress(self, job: "Job", done: int, total: int) -> None:
        self._compare_show(f"{job.name}: round {done}/{total}")

    def _compare_show(self, text: str, now: bool = False) -> None:
        done = len(self._finished)
        self._show(done, self._runs, f"{done} of {self._runs} runs finished | {text}", now)

    def end(self) -> None:
        """Show that all is done, and how long it took."""
        if self._handle is not None:
            self._show(1, 1, f"done in {time.monotonic() - self._began:.0f} s -> {self._name}", now=True)

    def _show(self, done: int, total: int, text: str, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown < UPDATE_SECONDS:
            return
        self._shown = time.monotonic()
        bar = _Html(f'<progress value="{done}" max="{total}"></progress> {escape(text)}', text)
        if self._handle is None:
            self._handle = self._display(bar, display_id=True)
        else:
            self._handle.update(bar)


class _Html:
    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def _shell() -> Any:
    """Return IPython's shell if this process is a notebook's kernel, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell if hasattr(shell, "kernel") else None


def _watched(function: Callable[P, R], watch: Callable[[dict[str, Any], Bar], None]) -> Callable[P, R]:
    """Wrap a function so that it shows its progress and its result as HTML in a notebook."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if (shell := _shell()) is not None:
            from IPython.display import display

            formatter = shell.display_formatter.formatters["text/html"]
            formatter.for_type(Result, lambda result: run_snippet(result.run))
            formatter.for_type(comparing.Comparison, lambda compared: compare_snippet(compared.folder))
            bar = Bar(display)
            watch(kwargs, bar)
            result = function(*args, **kwargs)
            bar.end()
            return result
        return function(*args, **kwargs)

    return call


def _watch_run(options: dict[str, Any], bar: Bar) -> None:
    if options.get("listener") is None:
        options["listener"] = bar.listener


def _watch_comparison(options: dict[str, Any], bar: Bar) -> None:
    execution = options.get("execution") or comparing.Execution()
    if execution.listener == comparing.CompareListener():
        options["execution"] = replace(execution, listener=bar.compare_listener)


run = _watched(api.run, _watch_run)
resume = _watched(api.resume, _watch_run)
compare = _watched(comparing.compare, _watch_comparison)


class LoadedRun(Learned):
    """A run's meta-learned model, displayed as a curve and a table in Jupyter."""

    def _repr_html_(self) -> str:
        return run_snippet(self.path)


def load(
    run: Path | str, best: bool = False, *, trust_code: bool = False, device: str = "cpu"
) -> LoadedRun:
    """Load the model that a run has learned.

    Args:
        run: The run's folder, such as ``runs/quickstart-001``; the run need not have finished.
        best: Use the checkpoint with the best score, on validation clients if there are any, instead of
            the newest.
        trust_code: Run the code named in the run's config (such as its own model), although the folder
            was not created on this machine or was changed since.
        device: Device to adapt and predict on: ``cpu``, ``cuda``, or ``auto`` for a GPU if present.

    Returns:
        The model: ``load(run).adapt(support_x, support_y).predict(x)``; see `Learned`.

    Raises:
        UsageError: If there is no such run or no usable checkpoint, or the folder was not created on
            this machine and names code.
        DataError: If the run's version did not record the shape of its tasks, and its data is missing.
    """
    return LoadedRun.open(run, best, trust_code=trust_code, device=device)
