"""`fedmeta run` and `fedmeta resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmeta.files import to_json

if TYPE_CHECKING:
    from fedmeta.cli.run_display import Display
    from fedmeta.experiment import Result

Settings = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Replace a value; see `fedmeta list keys`."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; the rest goes to stderr.")
]
Experiment = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="An experiment of `fedmeta list`, or a TOML file.")
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/quickstart-001.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random; as -s seed=N.")]
Faults = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What goes wrong: a TOML file with the keys of [faults]."),
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Do not try your own model, algorithm or task family on a tiny batch first.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run the code that a run's config names, though it was not made here."
    ),
]
DEBUG = "--debug"
Debug = Annotated[
    bool, typer.Option(DEBUG, help="Print the tracebacks of clients' code, and of ours, on stderr.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; by default new under runs/.")]


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
    """Run an experiment: clients learn to learn from private tasks, held-out clients are tested.

    Examples:

      fedmeta run quickstart

      fedmeta run quickstart -s rounds=200 -s server.lr=0.003 --seed 1 --json

      fedmeta run quickstart --faults faults.toml -s oversample=4
    """
    from fedmeta import experiment as experiments
    from fedmeta.cli.run_display import Display

    changes = _changes(settings, faults)
    if seed is not None:
        changes["seed"] = seed
    with Display(as_json, debug) as display:
        result = experiments.run(
            experiment, changes, out=out, listener=display.listener, check=not no_check
        )
    _finish(result, display, as_json)


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
    from fedmeta import experiment as experiments
    from fedmeta.cli.run_display import Display

    changes = _changes(settings, faults)
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
    _finish(result, display, as_json)


def _changes(settings: list[str] | None, faults: Path | None) -> dict[str, Any]:
    """Return the values that the command line sets; a setting goes before the file of faults."""
    from fedmeta import experiment as experiments

    named = {"faults": experiments.read_fault_file(faults)} if faults else {}
    return named | experiments.parse_settings(settings or [])


def _finish(result: "Result", display: "Display", as_json: bool) -> None:
    if as_json:
        typer.echo(to_json(result.to_json()))
    else:
        display.show_result(result)
    if result.chain and result.chain["refused"]:
        # The model is there, and nobody can be paid for it this way.
        raise typer.Exit(1)
