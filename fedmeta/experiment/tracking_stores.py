"""Stores of tracked values: TensorBoard's event files and MLflow's runs."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedmeta.config import Config, to_toml
from fedmeta.errors import DataError
from fedmeta.experiment.folder import RunFolder
from fedmeta.files import read_json, to_json, write_atomically

ALWAYS = "tasks"
"""A metric of every round."""
MOST_METRICS, MOST_PARAMS = 1000, 100
"""MLflow's limits per request."""


@dataclass(frozen=True)
class Entry:
    """Values of one round.

    Attributes:
        step: The round.
        values: Numbers by name, such as ``loss`` or ``final/accuracy/10`` (after 10 adaptation steps).
        final: Whether they are the final results.
    """

    step: int
    values: dict[str, float]
    final: bool = False


@dataclass(frozen=True)
class Tracked:
    """An earlier process's progress: its last round, and the round of its last final results."""

    round: int = 0
    final: int = 0


class Store(Protocol):
    """A destination of tracked values; any method may raise anything."""

    def open(self) -> Tracked:
        """Open the store, and return the progress of an earlier process."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Write new entries."""
        ...

    def close(self, status: str) -> None:
        """Finish; `status` is ``finished``, ``failed`` or ``interrupted``."""
        ...


class TensorBoardStore:
    """Event files in the run's own folder, under ``tensorboard/``.

    Args:
        folder: The run's folder.
        config: Its config, which is stored as text.
    """

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self.folder = folder.path / "tensorboard"
        self.config = config

    def open(self) -> Tracked:
        """Open a new event file; TensorBoard reads all of a folder as one run."""
        from torch.utils.tensorboard import SummaryWriter

        done = self._earlier()
        self._writer: Any = SummaryWriter(str(self.folder), flush_secs=10)
        if not done.round:
            self._writer.add_text("config", f"```toml\n{to_toml(self.config)}\n```")
        return done

    def _earlier(self) -> Tracked:
        if not self.folder.is_dir():
            return Tracked()
        from tensorboard.backend.event_processing import event_accumulator

        events = event_accumulator.EventAccumulator(str(self.folder), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        final = [event.step for tag in tags if tag.startswith("final/") for event in events.Scalars(tag)]
        rounds = [event.step for event in events.Scalars(ALWAYS)] if ALWAYS in tags else []
        return Tracked(max(rounds, default=0), max(final, default=0))

    def write(self, entries: Sequence[Entry]) -> None:
        """Write a scalar for each value."""
        for entry in entries:
            for name, value in entry.values.items():
                self._writer.add_scalar(name, value, entry.step)

    def close(self, status: str) -> None:
        """Flush to disk, with the status."""
        self._writer.add_text("status", status)
        self._writer.close()


class MLflowStore:
    """A run in the MLflow store that ``MLFLOW_TRACKING_URI`` names.

    Without it, the store is ``mlflow.db`` next to the run's folder, for all runs there. ``mlflow.json``
    in the run's folder has the id, so a resumed run continues the same MLflow run.

    Args:
        folder: The run's folder.
        config: Its config, whose keys become parameters.
    """

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self.folder = folder
        self.config = config
        self._kept = folder.path / "mlflow.json"

    def open(self) -> Tracked:
        """Find the run that an earlier process tracked, or create one."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            # After the import, which sets its own level.
            logging.getLogger(name).setLevel(logging.WARNING)
        beside = self.folder.path.resolve().parent
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            self._client = MlflowClient(tracking_uri=uri)
        else:
            self._client = _open_database(beside / "mlflow.db")
        known = self._earlier()
        self._id = known or self._create(beside)
        params = dict(self._client.get_run(self._id).data.params)
        self._describe(params)
        if not known:
            return Tracked()
        self._client.update_run(self._id, status="RUNNING")
        last = f"final/loss/{self.config.evaluation.steps[-1]}"
        return Tracked(self._last(ALWAYS), self._last(last))

    def _earlier(self) -> str | None:
        try:
            run_id = str(read_json(self._kept)["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException:
            # It was deleted, or the store has changed.
            return None
        return run_id

    def _create(self, beside: Path) -> str:
        name = str(self.folder.info.get("experiment", "fedmeta"))
        experiment = self._client.get_experiment_by_name(name)
        place = (beside / "mlartifacts").as_uri() if "MLFLOW_TRACKING_URI" not in os.environ else None
        found = experiment.experiment_id if experiment else self._client.create_experiment(name, place)
        run = self._client.create_run(found, run_name=self.folder.path.name)
        write_atomically(self._kept, to_json({"run_id": run.info.run_id}).encode())
        return str(run.info.run_id)

    def _describe(self, there: Mapping[str, str]) -> None:
        """Log the config; MLflow parameters cannot change, so changed ones become tags."""
        from mlflow.entities import Param

        params = {key: str(value)[:500] for key, value in _flat(self.config.model_dump(mode="json"))}
        new = [Param(key, value) for key, value in params.items() if key not in there]
        for first in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._id, params=new[first : first + MOST_PARAMS])
        for key, value in params.items():
            if there.get(key, value) != value:
                self._client.set_tag(self._id, f"resumed.{key}", value)

    def _last(self, metric: str) -> int:
        return max((one.step for one in self._client.get_metric_history(self._id, metric)), default=0)

    def write(self, entries: Sequence[Entry]) -> None:
        """Write metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, entry.step)
            for entry in entries
            for name, value in entry.values.items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MOST_METRICS])

    def close(self, status: str) -> None:
        """Set the run's status."""
        names = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        self._client.set_terminated(self._id, names[status])


def _open_database(path: Path) -> Any:
    """Return a client of an MLflow database, which is created if missing.

    MLflow creates it in many steps and cannot resume that, so it is created under a temporary name.

    Raises:
        DataError: If it cannot be used.
    """
    from mlflow import MlflowClient

    if not path.exists():
        new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
            with suppress(FileExistsError):
                # Another run may have created it meanwhile and be writing to it: do not replace it.
                os.link(new, path)
        finally:
            new.unlink(missing_ok=True)
    try:
        client = MlflowClient(tracking_uri=f"sqlite:///{path}")
        client.search_experiments(max_results=1)
    except Exception as error:
        why = " ".join(str(error).split())[:100]
        raise DataError(
            f"{path} cannot be used ({why}); if it is damaged or incomplete, move it away and resume"
        ) from error
    return client


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
