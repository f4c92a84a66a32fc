"""Logs a run's metrics to TensorBoard or MLflow.

A tracker never disturbs the run: it works in its own thread, the run only waits for it at its end for a
limited time, and if it fails the run continues without it.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

from fedmeta.config import Config
from fedmeta.errors import FedmetaError, UsageError
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.tracking_stores import Entry, MLflowStore, Store, TensorBoardStore, Tracked
from fedmeta.federation import StepResult

Kind = Literal["none", "tensorboard", "mlflow"]
Note = Callable[[str], None]

LAST_WAIT, INTERRUPTED_WAIT = 60.0, 5.0
"""Seconds that a run waits at its end for entries that are not tracked yet."""
BATCH = 50
"""Most rounds to write to a store at once."""


def require_extra(kind: Kind) -> None:
    """Check, without importing it, that the package that `kind` needs is installed.

    Raises:
        UsageError: If not, saying what to install.
    """
    if kind != "none" and find_spec(kind) is None:
        raise UsageError(f"tracking = '{kind}' needs its extra: pip install 'fedmeta[{kind}]'")


@contextmanager
def tracked(folder: RunFolder, config: Config, note: Note) -> Iterator["Tracker | None"]:
    """Yield the tracker of a run, or None if the config has none."""
    if config.tracking == "none":
        yield None
        return
    store = MLflowStore if config.tracking == "mlflow" else TensorBoardStore
    tracker = Tracker(store(folder, config), config.tracking, note)
    status = "failed"
    try:
        yield tracker
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        tracker.close(status)


class Tracker:
    """Writes a run's results to a store, in its own thread.

    Args:
        store: The store.
        name: Its name in notes.
        note: Called once with a line if it fails.
    """

    def __init__(self, store: Store, name: str, note: Note) -> None:
        self._store = store
        self._name = name
        self._note = note
        self._entries: queue.SimpleQueue[Entry | str] = queue.SimpleQueue()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def round(self, row: Mapping[str, Any]) -> None:
        """Track a row of ``metrics.jsonl``."""
        self._put(Entry(row["round"], scalars(row)))

    def final(self, round_: int, steps: Sequence[StepResult]) -> None:
        """Track the final results of a run of `round_` rounds."""
        self._put(Entry(round_, scalars({"final": [step.to_json() for step in steps]}), final=True))

    def close(self, status: str) -> None:
        """Wait for a limited time until everything is written."""
        wait = INTERRUPTED_WAIT if status == "interrupted" else LAST_WAIT
        self._entries.put(status)
        self._thread.join(wait)
        if self._thread.is_alive():
            self._problem = self._problem or f"it did not finish within {wait:g} s"
        self._tell()

    def _put(self, entry: Entry) -> None:
        self._tell()
        if self._thread.is_alive():
            self._entries.put(entry)

    def _tell(self) -> None:
        if self._problem is not None:
            self._note(
                f"tracking with {self._name} stopped ({self._problem}); the run continues without it"
            )
            self._problem, self._note = None, _no_note

    def _work(self) -> None:
        try:
            done = self._store.open()
            status = None
            while status is None:
                taken = self._take()
                status = next((one for one in taken if isinstance(one, str)), None)
                entries = [one for one in taken if isinstance(one, Entry)]
                self._store.write([one for one in entries if not _is_done(one, done)])
            self._store.close(status)
        except Exception as error:
            # A store may fail in any way: a server down, a disk full, an incompatible package.
            logging.getLogger(__name__).debug("tracking stopped", exc_info=True)
            said = str(error) if isinstance(error, FedmetaError) else f"{type(error).__name__}: {error}"
            self._problem = " ".join(said.split())[:300]

    def _take(self) -> list[Entry | str]:
        """Return the next entry, and those queued behind it."""
        taken = [self._entries.get()]
        while len(taken) < BATCH and not isinstance(taken[-1], str):
            try:
                taken.append(self._entries.get_nowait())
            except queue.Empty:
                break
        return taken


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a row's numbers by name, and those of adaptation steps as ``<list>/<measure>/<step>``."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, list):
            for step in value:
                inner = scalars({k: v for k, v in step.items() if k != "step"})
                found |= {f"{key}/{name}/{step['step']}": number for name, number in inner.items()}
        elif isinstance(value, int | float) and key != "round":
            found[key] = float(value)
    return found


def _is_done(entry: Entry, done: Tracked) -> bool:
    return entry.step <= (done.final if entry.final else done.round)


def _no_note(_: str) -> None:
    """Ignore further notes."""
