"""`fedmeta run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedmeta.cli.commands import (
    Debug,
    Experiment,
    Faults,
    Json,
    NoCheck,
    Out,
    Seed,
    Settings,
    import_torch,
)
from fedmeta.errors import UsageError
from fedmeta.files import to_json

if TYPE_CHECKING:
    from fedmeta.cli.run_display import Display
    from fedmeta.experiment import Result


def run(  # noqa: PLR0913 (each is an option of the command line)
    experiment: Experiment,
    settings: Settings = None,
    seed: Seed = None,
    out: Out = None,
    faults: Faults = None,
    no_check: NoCheck = False,
    debug: Debug = False,
    as_json: Json = False,
) -> None:
    """Run an experiment and test it on held-out clients.

    Training clients meta-learn from private tasks; held-out clients show how well the result adapts.

    Examples:

      fedmeta run quickstart

      fedmeta run quickstart -s rounds=200 -s server.lr=0.003 --seed 1 --json

      fedmeta run quickstart --faults faults.toml -s oversample=4
    """
    from fedmeta.experiment.swap import load

    changes = changes_of(settings, faults)
    if seed and len(seed) > 1:
        raise UsageError(
            f"--seed is given {len(seed)} times, but a run has one seed; see `fedmeta compare --seeds N`"
        )
    if seed:
        changes["seed"] = seed[0]
    # Refuse before importing torch, which takes seconds.
    load(experiment, changes)
    if out is not None:
        from fedmeta.experiment.folder import require_free

        require_free(out)
    import_torch()
    from fedmeta import experiment as experiments
    from fedmeta.cli.run_display import Display

    with Display(as_json, debug) as display:
        result = experiments.run(
            experiment, changes, out=out, listener=display.listener, check=not no_check
        )
    finish(result, display, as_json)


def changes_of(settings: list[str] | None, faults: Path | None) -> dict[str, Any]:
    """Return the values set on the command line; -s overrides the fault plan."""
    from fedmeta.config import parse_settings, read_fault_file

    named = {"faults": read_fault_file(faults)} if faults else {}
    return named | parse_settings(settings or [])


def finish(result: "Result", display: "Display", as_json: bool) -> None:
    """Show a result; exit with 1 if the chain refused to pay it."""
    if as_json:
        typer.echo(to_json(result.to_json()))
    else:
        display.show_result(result)
    if result.chain and result.chain["refused"]:
        # The model is trained, but its clients cannot be paid.
        raise typer.Exit(1)
