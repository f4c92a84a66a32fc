"""`fedmeta resume`."""

from typing import Annotated

import typer

from fedmeta.cli.commands import Debug, Faults, Json, NoCheck, RunPath, Settings, TrustCode
from fedmeta.cli.commands.run import changes_of, finish


def resume(  # noqa: PLR0913 (each is an option of the command line)
    run_folder: RunPath,
    settings: Settings = None,
    faults: Faults = None,
    new_campaign: Annotated[
        bool,
        typer.Option("--new-campaign", help="Record and pay all rounds anew, on new contracts."),
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on although your code or the data changed."),
    ] = False,
    trust_code: TrustCode = False,
    no_check: NoCheck = False,
    debug: Debug = False,
    as_json: Json = False,
) -> None:
    """Go on with a run from its newest good checkpoint, however it ended.

    What a resumed run computes is the same, byte for byte, as if it had never stopped; on another
    engine, up to rounding. Only keys that leave the finished rounds as they are may be set: rounds
    (more), engine, workers, checkpoint_every, timeout, what goes wrong from now on, and where the
    chain is. Rounds that wait for a chain are settled. If your own code or the data are no longer
    those that the run was made with, it is refused, unless you accept that. A folder that was not made
    here runs no code of its own without --trust-code, and connects to what you name with -s alone.
    """
    from fedmeta.config.toml import resumed
    from fedmeta.experiment.folder import RunFolder

    changes = changes_of(settings, faults)
    # What is refused is refused before torch is imported, which takes seconds.
    resumed(RunFolder.open(run_folder).config, changes)
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
