"""`run()` and `resume()`."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedmeta.config import Config, parts, seals, trust
from fedmeta.config.toml import resumed
from fedmeta.errors import UsageError
from fedmeta.experiment import planning
from fedmeta.experiment.execute import execute
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.made_with import (
    MADE,
    Made,
    code_changes,
    data_of,
    entries,
    made_with,
    provenance,
    user_changes,
    versions,
    went_on,
)
from fedmeta.experiment.open_federation import require_engine
from fedmeta.experiment.result import Listener, Result
from fedmeta.experiment.rows import MEASURES, measures_entry
from fedmeta.experiment.swap import load
from fedmeta.federation import Learner
from fedmeta.federation.flower_strategy import require_resumable


def run(  # noqa: PLR0913 (all but one are optional)
    experiment: str | Config,
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    listener: Listener | None = None,
    grid: Grid | None = None,
    check: bool = True,
) -> Result:
    """Run an experiment from the start.

    Args:
        experiment: A name or TOML path, or a config.
        settings: Values by dotted key that replace the config's (``{"server.lr": 0.01}``).
            A part of your own may be given as its class (``{"model": Net}``). Options of the
            experiment that only a part had which these replace are left out; `listener` is told.
        out: The run's folder; by default a new one under ``runs/``.
        listener: Watches the run.
        grid: Flower's, if this is a ServerApp; None: the config's engine opens one.
        check: Whether a model, algorithm or task family of yours is tried on a tiny batch first.

    Raises:
        UsageError: If the request is wrong; nothing was changed on disk.
        RunError: If the run could not go on; its folder can be resumed.
    """
    listener = listener or Listener()
    name = "run" if isinstance(experiment, Config) else Path(experiment).stem
    config, left_out = load(experiment, settings)
    config = planning.resolve(config)
    if grid is not None and config.deployment.roster:
        raise UsageError(
            "deployment.roster: `flwr run` starts an app that does not know its nodes by it: start the "
            "run by `fedmeta run`"
        )
    learner = planning.check(config, check)
    if grid is None:
        require_engine(config)
    folder, made = _new_folder(config, name, learner, out)
    for one in left_out:
        listener.note(str(one))
    if unsealed := seals.problem():
        listener.note(unsealed)
    for module in (module for module, digest in made.code.items() if digest is None):
        listener.note(f"module {module} has no file: a change of its code will not be noticed")
    with folder.locked():
        try:
            return execute(folder, config, learner, listener, grid)
        except UsageError:
            # A mistake that only the chain could tell: there is nothing to keep.
            if not folder.metrics():
                shutil.rmtree(folder.path)
            raise


def _new_folder(
    config: Config, name: str, learner: Learner, out: Path | str | None
) -> tuple[RunFolder, Made]:
    """Make a run's folder, and return with what code and data the run is made."""
    spec = asdict(learner.family.spec)
    made = made_with(config, data_of(config, learner.family))
    info = {"experiment": name, "seed": config.seed, "spec": spec, **provenance(), MADE: [made.entry()]}
    info[MEASURES] = measures_entry(learner.algorithm.objective)
    if config.chain.enabled:
        from fedmeta.experiment.ledger import new_run_id, preflight

        preflight(config)
        info["run_id"] = new_run_id(config).hex()
    if out is None:
        return RunFolder.create_next(Path("runs"), name, config, info), made
    return RunFolder.create(Path(out), config, info), made


def resume(  # noqa: PLR0913 (all but one are optional)
    path: Path | str,
    settings: Mapping[str, Any] | None = None,
    *,
    listener: Listener | None = None,
    new_campaign: bool = False,
    accept_changes: bool = False,
    trust_code: bool = False,
    check: bool = True,
) -> Result:
    """Go on with a run from its newest good checkpoint.

    Args:
        path: The run's folder.
        settings: Changes to keys that may (see `fedmeta list keys`); ``rounds`` may only grow.
        listener: Watches the run, and is told about damaged checkpoints.
        new_campaign: Start the ledger over: all rounds are recorded and paid on new contracts.
        accept_changes: Go on although the user's code or the data are no longer those that the run was
            made with. ``run.json`` says so then, and no comparison uses the run.
        trust_code: Run the code that the config names, although the folder was not made here. A node,
            cluster or keystore that it names must be in `settings` then.
        check: As in `run`.

    Raises:
        UsageError: If there is no such run, another process is in it, a change is not safe, the user's
            code or the data changed, or the folder was not made here and names code or hosts.
        RunError: If the run could not go on.
    """
    folder, listener = RunFolder.open(Path(path)), listener or Listener()
    asked = planning.with_device(resumed(folder.config, settings or {}))
    trust.require_code(folder.path, asked, trust_code)
    trust.require_hosts(folder.path, asked, settings or {})
    with folder.locked():
        before = folder.config
        config = planning.with_device(resumed(before, settings or {}))
        learner = planning.check(config, check)
        require_engine(config)
        parts.faults(config)
        _require_memory(folder, config)
        made = made_with(config, data_of(config, learner.family))
        _look_at_changes(folder, made, listener, accept_changes)
        if config.chain.enabled:
            _look_at_ledger(folder, config, new_campaign)
        elif new_campaign:
            raise UsageError(f"{folder.path} has no chain: there is no campaign to start over")
        if config != before:
            folder.replace_config(config)
        elif folder.status == "finished" and not new_campaign:
            listener.note(
                f"the run has finished (round {config.rounds} of {config.rounds}) and is tested again; "
                "`-s rounds=N` with a larger N trains it further"
            )
        if config.rounds > before.rounds and config.server.schedule != "constant":
            listener.note(
                f"the {config.server.schedule} schedule is as long as the run: "
                f"from here on the learning rate is that of a run of {config.rounds} rounds"
            )
        return execute(folder, config, learner, _writing(made, listener))


def _look_at_changes(folder: RunFolder, now: Made, listener: Listener, accepted: bool) -> None:
    """Say what changed since the run's rounds were made; refuse what nobody accepted.

    Raises:
        UsageError: If the user's code or the data changed.
    """
    if not folder.checkpoints.rounds():
        # No round is kept, so that none is of anything else.
        return
    made, before = entries(folder.info), folder.info.get("versions", {})
    for package, version in versions().items():
        if before and before.get(package) != version:
            listener.note(f"{package} was {before.get(package)} and is {version} now")
    if not made:
        listener.note(
            "the run does not say with what code and data it was made: it continues with these"
        )
        return
    changed = ", ".join(user_changes(made[-1], now.entry()))
    if changed and not accepted:
        raise UsageError(
            f"{folder.path}: {changed} since its rounds were made: put it back, or go on all the same "
            "with --accept-changes"
        )
    for line in code_changes(made[-1], now.entry()):
        listener.note(f"{line} since the run's rounds were made: later rounds are of the new")


def _writing(made: Made, listener: Listener) -> Listener:
    """Return a listener that also writes down what the run goes on with, before its next round."""

    def started(folder: RunFolder, config: Config, done: int) -> None:
        folder.update_info({MADE: went_on(entries(folder.info), made, done)})
        listener.started(folder, config, done)

    return replace(listener, started=started)


def _require_memory(folder: RunFolder, config: Config) -> None:
    """Refuse to go on with a Flower strategy whose memory the checkpoints do not hold."""
    saved = folder.checkpoints.rounds()
    if saved and saved[0] < config.rounds:
        require_resumable(config.aggregation)


def _look_at_ledger(folder: RunFolder, config: Config, new_campaign: bool) -> None:
    """Start the campaign over if that is asked for, and see that the ledger goes with the config."""
    from fedmeta.experiment.ledger import RunLedger, start_over

    engines = {folder.config.engine, config.engine}
    if len(engines) > 1 and "deployment" in engines:
        raise UsageError(
            f"{folder.path}: its clients are paid under the accounts of engine = "
            f"'{folder.config.engine}': it cannot go on with '{config.engine}'"
        )
    if new_campaign:
        start_over(folder, config)
    RunLedger(folder, config, lambda _: None).__exit__()
