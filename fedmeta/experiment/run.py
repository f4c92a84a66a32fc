"""One run from config to results, and the way back into a run that was cut short."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmeta.errors import ConfigError, DivergedError, FedmetaError, RunError
from fedmeta.experiment import plan as planning
from fedmeta.experiment.checkpoint import DamagedCheckpointError, Manifest
from fedmeta.experiment.config import Config, load_config, merge
from fedmeta.experiment.environment import provenance
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.recorder import Recorder, RoundListener
from fedmeta.federation import Snapshot, StepResult, evaluate, simulate
from fedmeta.options import nearest, parse_options

RESUMABLE = ("rounds", "workers", "checkpoint_every", "timeout")
"""Keys that may change when a run is resumed: none of them alters what finished rounds computed."""


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Listener:
    """What a caller may watch of a run; every part is optional.

    Attributes:
        started: Called once with the run's folder, its config, and how many rounds are done already.
        round: Called after each round.
        testing: Called when training is over, with the number of test clients that are next.
        note: Called with a line about each thing found on the way, such as a damaged checkpoint.
    """

    started: Callable[[RunFolder, Config, int], None] = _ignore
    round: RoundListener = _ignore
    testing: Callable[[int], None] = _ignore
    note: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        status: ``finished``.
        run: The run's folder.
        experiment: Name of the experiment.
        tasks: Training tasks that entered the model.
        wall_seconds: Time spent, over all the processes that worked on the run.
        final: Test clients' loss and accuracy by adaptation step; empty without test clients.
    """

    status: str
    run: Path
    experiment: str
    algorithm: str
    engine: str
    seed: int
    rounds: int
    clients: int
    tasks: int
    wall_seconds: float
    final: tuple[StepResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return asdict(self) | {"run": str(self.run), "final": [asdict(step) for step in self.final]}


def run(
    experiment: str | Config,
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    listener: Listener | None = None,
) -> Result:
    """Run an experiment from the start.

    Args:
        experiment: A name or TOML path, or a config.
        settings: Values by dotted key that replace the config's (``{"server.lr": 0.01}``).
        out: The run's folder; by default a new one under ``runs/``.
        listener: Watches the run.

    Raises:
        UsageError: If the request is wrong; nothing was changed on disk.
        RunError: If the run could not go on; its folder can be resumed.
    """
    if isinstance(experiment, Config):
        config = parse_options(Config, merge(experiment.model_dump(), settings or {}))
        name = "run"
    else:
        config, name = load_config(experiment, settings), Path(experiment).stem
    config = planning.resolve(config)
    planning.check(config)
    info = {"experiment": name, "seed": config.seed, **provenance()}
    if out is None:
        folder = RunFolder.create_next(Path("runs"), name, config, info)
    else:
        folder = RunFolder.create(Path(out), config, info)
    with folder.locked():
        return _execute(folder, config, listener or Listener())


def resume(
    path: Path | str, settings: Mapping[str, Any] | None = None, *, listener: Listener | None = None
) -> Result:
    """Go on with a run from its newest good checkpoint.

    Args:
        path: The run's folder.
        settings: Changes to keys of `RESUMABLE`; ``rounds`` may only grow.
        listener: Watches the run, and is told about damaged checkpoints.

    Raises:
        UsageError: If there is no such run, another process is in it, or a change is not safe.
        RunError: If the run could not go on.
    """
    folder, listener = RunFolder.open(Path(path)), listener or Listener()
    with folder.locked():
        before = folder.config
        config = _changed(before, settings or {})
        planning.check(config)
        if config != before:
            folder.replace_config(config)
        if config.rounds > before.rounds and config.server.schedule != "constant":
            listener.note(
                f"the {config.server.schedule} schedule is as long as the run: "
                f"from here on the learning rate is that of a run of {config.rounds} rounds"
            )
        return _execute(folder, config, listener)


def _changed(config: Config, settings: Mapping[str, Any]) -> Config:
    for key in settings:
        if key not in RESUMABLE:
            known = key.split(".")[0] in Config.model_fields
            why = "would change what the finished rounds mean" if known else nearest(key, RESUMABLE)
            may = ", ".join(RESUMABLE)
            raise ConfigError(f"'{key}' cannot be changed on resume: {why} (may: {may})")
    changed = parse_options(Config, merge(config.model_dump(), settings))
    if changed.rounds < config.rounds:
        raise ConfigError(f"rounds: a run can only grow (from {config.rounds}, got {changed.rounds})")
    return changed


def _execute(folder: RunFolder, config: Config, listener: Listener) -> Result:
    with _accounted(folder), closing(Recorder(folder, config, listener.round)) as recorder:
        start = _newest(folder, recorder, listener)
        listener.started(folder, config, start.round if start else 0)
        try:
            snapshot = _train(config, start, recorder)
            listener.testing(config.test_clients)
            final = evaluate(planning.workload(config), snapshot.state, "test", config.workers)
        except (KeyboardInterrupt, FedmetaError) as error:
            # A full disk stops this as well; the checkpoints before it are whole.
            with suppress(OSError):
                recorder.checkpoint()
            if isinstance(error, DivergedError):
                raise DivergedError(f"{error}; {_last_good(folder)}") from None
            raise
        folder.update_info({"final": [asdict(step) for step in final]})
    return _result(folder, config, final)


def _last_good(folder: RunFolder) -> str:
    rounds = folder.checkpoints.rounds()
    return f"the last good checkpoint is of round {rounds[0]}" if rounds else "no round was good"


def _train(config: Config, start: Snapshot | None, recorder: Recorder) -> Snapshot:
    if start and start.round >= config.rounds:
        return start
    return simulate(
        planning.workload(config),
        planning.plan(config),
        start=start,
        observer=recorder.on_round,
        workers=config.workers,
    )


def _newest(folder: RunFolder, recorder: Recorder, listener: Listener) -> Snapshot | None:
    """Find the newest good checkpoint, and put the folder back to how it was then."""
    folder.checkpoints.folder.mkdir(exist_ok=True)
    logged = len(folder.metrics())
    found: tuple[Snapshot, Manifest] | None = None
    for candidate in folder.checkpoints.newest_first():
        if isinstance(candidate, DamagedCheckpointError):
            listener.note(f"{candidate}: not used")
        elif short := recorder.shorter_than(candidate[1]):
            listener.note(
                f"checkpoint of round {candidate[0].round}: {short} is shorter than it was then"
            )
        else:
            found = candidate
            break
    round_ = found[0].round if found else 0
    if logged > round_:
        listener.note(
            f"rounds {round_ + 1} to {logged} were logged but not checkpointed: they run again"
        )
    folder.checkpoints.drop_after(round_)
    recorder.rewind(found[1] if found else None)
    return found[0] if found else None


@contextmanager
def _accounted(folder: RunFolder) -> Iterator[None]:
    """Keep the status and the time in ``run.json`` true, however the block ends."""
    began, spent = time.monotonic(), folder.info.get("wall_seconds", 0.0)

    def close(status: str, error: str | None = None) -> None:
        seconds = round(spent + time.monotonic() - began, 3)
        folder.update_info({"status": status, "ended": _now(), "wall_seconds": seconds, "error": error})

    folder.update_info({"status": "running", "started": _now(), "pid": os.getpid(), "error": None})
    try:
        yield
    except KeyboardInterrupt:
        close("interrupted")
        raise
    except Exception as error:
        # On a full disk the status cannot be written either; the first error is the one to tell.
        with suppress(OSError):
            close("failed", str(error) or type(error).__name__)
        if isinstance(error, OSError):
            raise RunError(f"{error.filename or folder.path}: {error.strerror or error}") from None
        raise
    close("finished")


def _result(folder: RunFolder, config: Config, final: tuple[StepResult, ...]) -> Result:
    info = folder.info
    return Result(
        status=info["status"],
        run=folder.path,
        experiment=info.get("experiment", folder.path.name),
        algorithm=config.algorithm,
        engine=config.engine,
        seed=config.seed,
        rounds=config.rounds,
        clients=config.clients,
        tasks=sum(row["tasks"] for row in folder.metrics()),
        wall_seconds=info["wall_seconds"],
        final=final,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
