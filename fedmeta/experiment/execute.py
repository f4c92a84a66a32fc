"""Runs an experiment: train, test, settle, record."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedmeta.config import Config
from fedmeta.errors import (
    DivergedError,
    FedmetaError,
    LearnersFailedError,
    RunError,
    UntrainedError,
    UsageError,
)
from fedmeta.experiment import streams
from fedmeta.experiment.checkpoint import CLIENTS, DamagedCheckpointError, Manifest, misfit
from fedmeta.experiment.client_totals import (
    note_refused,
    participants,
    replies,
    traceback_hint,
    why_untrained,
)
from fedmeta.experiment.explain import write_explanations
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.held_out import final_test, state_of, write_examples
from fedmeta.experiment.open_federation import open_federation
from fedmeta.experiment.planning import build_way, initial_state
from fedmeta.experiment.recorder import Recorder, error_log
from fedmeta.experiment.result import Listener, Result, ignore
from fedmeta.experiment.rows import LOGS
from fedmeta.experiment.scorer import RunScorer
from fedmeta.experiment.streaming import measure_streams
from fedmeta.experiment.tracker import tracked
from fedmeta.federation import Learner, Rewards, Snapshot, StepResult
from fedmeta.federation.accounts import Checking
from fedmeta.federation.client_states import ClientStates
from fedmeta.files import remove_unfinished
from fedmeta.training import Way, run_rounds

if TYPE_CHECKING:
    from fedmeta.experiment.ledger import RunLedger

_LONGEST = 1e12
"""Largest plausible ``wall_seconds`` in ``run.json``."""


def execute(
    folder: RunFolder,
    config: Config,
    learner: Learner,
    listener: Listener,
    grid: Grid | None = None,
) -> Result:
    """Run the remaining rounds of a run, test it, and settle its ledger.

    Args:
        folder: The run's folder, locked by this process.
        config: Its config.
        learner: The clients' side of its workload.
        listener: Watches it.
        grid: Flower's grid, if this is a ServerApp; None: the config's engine opens one.

    Raises:
        UsageError: If the chain or the keys in the config can never work.
        RunError: If the run failed.
        UntrainedError: If it finished but did not learn; its folder has the replies' outcomes.
    """
    with (
        _keeping_status(folder),
        error_log(folder.path, listener.failure),
        tracked(folder, config, listener.note) as tracker,
        _ledger(folder, config, listener) as ledger,
    ):
        covered = ledger.covered if ledger else ignore
        track = tracker.round if tracker else ignore
        with (
            closing(Recorder(folder, config, listener.round, covered, track)) as recorder,
            _client_states(folder, learner) as states,
        ):
            run = _Run(folder, config, learner, recorder, ledger, grid, states)
            final, problem = _train_and_test(run, listener)
        if tracker:
            tracker.final(config.rounds, final)
        changes: dict[str, Any] = {
            "final": [step.to_json() for step in final],
            "replies": replies(folder),
        }
        if ledger:
            listener.settling(ledger.settlement.frozen)
            changes["chain"] = asdict(ledger.finish())
        folder.update_info(changes)
        if problem:
            raise UntrainedError(problem)
    return _result(folder, config, final)


@dataclass(frozen=True)
class _Run:
    folder: RunFolder
    config: Config
    learner: Learner
    recorder: Recorder
    ledger: "RunLedger | None"
    grid: Grid | None
    states: ClientStates | None


def _train_and_test(run: _Run, listener: Listener) -> tuple[tuple[StepResult, ...], str | None]:
    """Run the remaining rounds, then test and write the files of the test.

    Returns:
        The test's results, and why the run did not learn; None if it did.
    """
    folder, config = run.folder, run.config
    folder.checkpoints.keep_constants(run.learner.constants)
    folder.checkpoints.client_states = run.states
    start = _restore(run, listener)
    if run.ledger:
        run.ledger.start()
    listener.started(folder, config, start.round if start else 0)
    try:
        first, refused = start.round + 1 if start else 1, partial(note_refused, folder)
        with open_federation(
            config, run.learner, _signatures(run), first, run.grid, run.states, refused
        ) as federation:
            rewards = _rewards(run) if first <= config.rounds else Rewards()
            way = build_way(config, federation, start, rewards)
            snapshot = _train(run, start, way)
            problem = why_untrained(folder, config.quorum)
            if problem and not any(row["admitted"] for row in folder.metrics()):
                # The state is the initial one, and the clients probably cannot be tested either.
                return (), problem
            listener.testing(config.test_clients)
            tested = final_test(config, way, snapshot.state)
        folder.write_test(tested.clients)
        write_examples(folder, config, run.learner, snapshot.state)
        if config.evaluation.stream.segments:
            clients = run.learner.workload.population.clients("test")
            states = {one: state_of(config, snapshot.state, one) for one in clients}
            streams.write(folder.path, measure_streams(config, run.learner, states))
        if note := write_explanations(folder, config, run.learner, snapshot.state):
            listener.note(note)
        return tested.steps, problem
    except (KeyboardInterrupt, FedmetaError) as error:
        # A full disk makes this fail too; earlier checkpoints are complete.
        with suppress(OSError, RunError):
            run.recorder.checkpoint()
        if isinstance(error, KeyboardInterrupt):
            # The folder may be gone, which is not what ended the run.
            with suppress(OSError, FedmetaError):
                listener.note(
                    f"stopped after round {len(folder.metrics())} of {config.rounds}: "
                    f"resume it with `fedmeta resume {folder.path}`"
                )
        if isinstance(error, DivergedError):
            raise DivergedError(f"{error}; {_last_good(folder)}") from None
        if isinstance(error, LearnersFailedError):
            raise LearnersFailedError(f"{error}{traceback_hint(folder)}") from None
        raise


@contextmanager
def _client_states(folder: RunFolder, learner: Learner) -> Iterator[ClientStates | None]:
    """Open the clients' memory; None if the algorithm's clients have none."""
    if not learner.memory_template:
        yield None
        return
    folder.checkpoints.folder.mkdir(exist_ok=True)
    with closing(ClientStates(folder.checkpoints.folder / CLIENTS)) as states:
        yield states


@contextmanager
def _ledger(folder: RunFolder, config: Config, listener: Listener) -> Iterator["RunLedger | None"]:
    if not config.chain.enabled:
        yield None
        return
    from fedmeta.experiment.ledger import RunLedger

    with RunLedger(folder, config, listener.note) as ledger:
        yield ledger


def _rewards(run: _Run) -> Rewards:
    scorer = None
    if run.config.incentives.rule != "none":
        scorer = RunScorer(run.config, run.learner)
        scorer.replay(run.folder.clients())
    return Rewards(_signatures(run), scorer)


def _signatures(run: _Run) -> Checking | None:
    return run.ledger.signatures if run.ledger else None


def _last_good(folder: RunFolder) -> str:
    rounds = folder.checkpoints.rounds()
    return f"the last checkpoint is of round {rounds[0]}" if rounds else "there is no checkpoint"


def _train(run: _Run, start: Snapshot | None, way: Way) -> Snapshot:
    """Run the remaining rounds; a run of 0 rounds gets a checkpoint of its initial state."""
    if start and start.round >= run.config.rounds:
        return start
    if run.config.rounds:
        return run_rounds(way, run.recorder.on_round)
    snapshot = Snapshot(0, initial_state(run.config, run.learner.init_state()), {})
    run.folder.checkpoints.save(snapshot, dict.fromkeys(LOGS, 0), None)
    return snapshot


def _restore(run: _Run, listener: Listener) -> Snapshot | None:
    """Find the latest valid checkpoint, and restore the folder to its round."""
    folder, recorder = run.folder, run.recorder
    folder.checkpoints.folder.mkdir(exist_ok=True)
    for place in (folder.path, folder.checkpoints.folder):
        remove_unfinished(place)
    logged = len(folder.metrics())
    initial = initial_state(run.config, run.learner.template)
    found: tuple[Snapshot, Manifest] | None = None
    for candidate in folder.checkpoints.newest_first():
        if isinstance(candidate, DamagedCheckpointError):
            listener.note(f"{candidate}: not used")
        elif short := recorder.shorter_than(candidate[1]):
            listener.note(
                f"checkpoint of round {candidate[0].round}: {short} has become shorter: not used"
            )
        elif wrong := misfit(candidate[0].state, initial):
            listener.note(f"checkpoint of round {candidate[0].round}: {wrong}: not used")
        elif run.states and not run.states.agrees(candidate[1].client_states, candidate[0].round):
            listener.note(
                f"checkpoint of round {candidate[0].round}: {CLIENTS} does not have the clients' memory "
                "of that round: not used"
            )
        else:
            found = candidate
            _require_same_constants(folder, candidate[1])
            break
    round_ = found[0].round if found else 0
    if logged > round_:
        listener.note(
            f"rounds {round_ + 1} to {logged} were logged but not checkpointed: running them again"
        )
    folder.checkpoints.drop_after(round_)
    recorder.rewind(found[1] if found else None)
    if run.states:
        run.states.rewind(round_)
    return found[0] if found else None


def _require_same_constants(folder: RunFolder, manifest: Manifest) -> None:
    if manifest.constants_sha256 not in (None, folder.checkpoints.constants_sha256):
        raise UsageError(
            f"{folder.path}: the model's frozen parameters and buffers differ from those of round "
            f"{manifest.round}: its code, or a file that it loads, has changed; start a new run"
        )


@contextmanager
def _keeping_status(folder: RunFolder) -> Iterator[None]:
    """Keep the status and time in ``run.json`` correct, however the block ends."""
    began, spent = time.monotonic(), min(folder.info.get("wall_seconds", 0.0), _LONGEST)

    def close(status: str, error: str | None = None) -> None:
        seconds = round(spent + time.monotonic() - began, 3)
        folder.update_info({"status": status, "ended": _now(), "wall_seconds": seconds, "error": error})

    try:
        # Inside the block, as others may act on it as soon as it is on disk.
        folder.update_info({"status": "running", "started": _now(), "pid": os.getpid(), "error": None})
        yield
    except KeyboardInterrupt:
        close("interrupted")
        raise
    except Exception as error:
        # On a full disk the status cannot be written either; report the first error.
        with suppress(OSError):
            close("failed", str(error) or type(error).__name__)
        if isinstance(error, OSError):
            raise RunError(f"{error.filename or folder.path}: {error.strerror or error}") from None
        raise
    close("finished")


def _result(folder: RunFolder, config: Config, final: tuple[StepResult, ...]) -> Result:
    info = folder.info
    paid = config.incentives.rule != "none"
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
        participants=participants(folder.clients()) if paid else (),
        replies=info.get("replies"),
        chain=info.get("chain"),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
