"""`fedmeta resume`."""

from typing import Annotated

import typer

from fedmeta.cli.commands import Debug, Faults, Json, NoCheck, RunPath, Settings, TrustCode, import_torch
from fedmeta.cli.commands.run import changes_of, finish


def resume(  # noqa: PLR0913 (each is an option of the command line)
    run_folder: RunPath,
    settings: Settings = None,
    faults: Faults = None,
    new_campaign: Annotated[
        bool,
        typer.Option("--new-campaign", help="Record and pay all rounds again, on new contracts."),
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Resume even if your code or the data changed."),
    ] = False,
    trust_code: TrustCode = False,
    no_check: NoCheck = False,
    debug: Debug = False,
    as_json: Json = False,
) -> None:
    """Resume a run from its latest valid checkpoint.

    The result is the same, byte for byte, as without the interruption (on another engine: up to
    rounding). You may set only keys that leave finished rounds as they are: rounds (more of them),
    engine, workers, checkpoint_every, timeout, faults, tracking, and where the chain is. Rounds not yet
    on the chain are recorded and paid.

    Refused if your own code or the data changed since (--accept-changes overrides). A run folder from
    elsewhere runs no code of its own without --trust-code, and connects only to addresses set with -s.
    """
    from fedmeta.config.toml import resumed
    from fedmeta.experiment.folder import RunFolder

    changes = changes_of(settings, faults)
    # Refuse before importing torch, which takes seconds.
    resumed(RunFolder.open(run_folder).config, changes)
    import_torch()
    from fedmeta import experiment as experiments
    from fedmeta.cli.run_display import Display

    with Display(as_json, debug) as display:
        result = experiments.resume(
            run_folder,
            changes,
            listener=display.listener,
            new_campaign=new_campaign,
            check=not no_check,
            accept_changes=accept_changes,
            trust_code=trust_code,
        )
    finish(result, display, as_json)
