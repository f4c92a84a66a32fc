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
    continued,
    data_of,
    made_entries,
    made_with,
    provenance,
    user_changes,
    versions,
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
        settings: Values by dotted key that replace the config's (``{"server.lr": 0.01}``). Your own part
            may be given as a class (``{"model": Net}``). If they replace a part, options that only the
            old part has are dropped, with a note to `listener`.
        out: The run's folder; by default a new one under ``runs/``.
        listener: Watches the run.
        grid: Flower's grid, if this is a ServerApp; None: the config's engine opens one.
        check: Whether to check your own model, algorithm or task family on a tiny batch first.

    Raises:
        UsageError: If the request is invalid; nothing was changed on disk.
        RunError: If the run failed; it can be resumed.
    """
    listener = listener or Listener()
    name = "run" if isinstance(experiment, Config) else Path(experiment).stem
    config, left_out = load(experiment, settings)
    config = planning.resolve(config)
    if grid is not None and config.deployment.roster:
        raise UsageError(
            "deployment.roster: `flwr run` starts an app that does not check nodes against it: start "
            "the run with `fedmeta run`"
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
        listener.note(f"module {module} has no file: changes to its code will not be noticed")
    with folder.locked():
        try:
            return execute(folder, config, learner, listener, grid)
        except UsageError:
            # A mistake that only the chain could detect: there is nothing to keep.
            if not folder.metrics():
                shutil.rmtree(folder.path)
            raise


def _new_folder(
    config: Config, name: str, learner: Learner, out: Path | str | None
) -> tuple[RunFolder, Made]:
    """Make a run's folder; return it with the versions of the code and data of the run."""
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
    """Resume a run from its latest valid checkpoint.

    Args:
        path: The run's folder.
        settings: Changes to keys that may change (see `fedmeta list keys`); ``rounds`` may only grow.
        listener: Watches the run, and is told about damaged checkpoints.
        new_campaign: Restart the ledger: record and pay all rounds on new contracts.
        accept_changes: Resume although the user's code or the data have changed since the run was made.
            ``run.json`` then says so, and comparisons do not use the run.
        trust_code: Run code that the config names, although the folder was not made on this machine. A
            node, cluster or keystore that it names must then be in `settings`.
        check: As in `run`.

    Raises:
        UsageError: If there is no such run, another process uses it, a change is not safe, the user's
            code or the data changed, or the folder was not made here and names code or hosts.
        RunError: If the run failed.
    """
    folder, listener = RunFolder.open(Path(path)), listener or Listener()
    asked = planning.with_processor(resumed(folder.config, settings or {}))
    trust.require_code(folder.path, asked, trust_code)
    trust.require_hosts(folder.path, asked, settings or {})
    with folder.locked():
        before = folder.config
        config = planning.with_processor(resumed(before, settings or {}))
        learner = planning.check(config, check)
        require_engine(config)
        parts.faults(config)
        _require_strategy_state(folder, config)
        made = made_with(config, data_of(config, learner.family))
        _check_changes(folder, made, listener, accept_changes)
        if config.chain.enabled:
            _check_ledger(folder, config, new_campaign)
        elif new_campaign:
            raise UsageError(f"{folder.path} has no chain: there is no campaign to restart")
        if config != before:
            folder.replace_config(config)
        elif folder.status == "finished" and not new_campaign:
            listener.note(
                f"the run has already finished (round {config.rounds} of {config.rounds}): testing it "
                "again; use `-s rounds=N` with a larger N to train it further"
            )
        if config.rounds > before.rounds and config.server.schedule != "constant":
            listener.note(
                f"the {config.server.schedule} schedule spans the whole run: "
                f"from now on the learning rate is that of a run of {config.rounds} rounds"
            )
        return execute(folder, config, learner, _recording_made(made, listener))


def _check_changes(folder: RunFolder, now: Made, listener: Listener, accepted: bool) -> None:
    """Note what changed since the run's rounds were made; refuse changes that were not accepted.

    Raises:
        UsageError: If the user's code or the data changed.
    """
    if not folder.checkpoints.rounds():
        # No rounds are kept, so none was made with anything else.
        return
    made, before = made_entries(folder.info), folder.info.get("versions", {})
    for package, version in versions().items():
        if before and before.get(package) != version:
            listener.note(f"{package} was {before.get(package)} and is now {version}")
    if not made:
        listener.note(
            "the run does not record the code and data it was made with: continuing with the current"
        )
        return
    changed = ", ".join(user_changes(made[-1], now.entry()))
    if changed and not accepted:
        raise UsageError(
            f"{folder.path}: {changed} since its rounds were made: restore it, or resume anyway with "
            "--accept-changes"
        )
    for line in code_changes(made[-1], now.entry()):
        listener.note(f"{line} since the run's rounds were made: later rounds use the new version")


def _recording_made(made: Made, listener: Listener) -> Listener:
    """Return a listener that also records the code and data before the next round."""

    def started(folder: RunFolder, config: Config, done: int) -> None:
        folder.update_info({MADE: continued(made_entries(folder.info), made, done)})
        listener.started(folder, config, done)

    return replace(listener, started=started)


def _require_strategy_state(folder: RunFolder, config: Config) -> None:
    """Refuse to resume with a Flower strategy whose state is not in the checkpoints."""
    saved = folder.checkpoints.rounds()
    if saved and saved[0] < config.rounds:
        require_resumable(config.aggregation)


def _check_ledger(folder: RunFolder, config: Config, new_campaign: bool) -> None:
    """Restart the campaign if requested, and check that the ledger fits the config."""
    from fedmeta.experiment.ledger import RunLedger, start_over

    engines = {folder.config.engine, config.engine}
    if len(engines) > 1 and "deployment" in engines:
        raise UsageError(
            f"{folder.path}: its clients' accounts are those of engine = '{folder.config.engine}', "
            f"so it cannot be resumed with '{config.engine}'"
        )
    if new_campaign:
        start_over(folder, config)
    RunLedger(folder, config, lambda _: None).__exit__()
