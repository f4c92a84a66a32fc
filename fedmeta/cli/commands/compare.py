"""`fedmeta compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedmeta.cli.commands import Debug, Experiment, Json, NoCheck, Settings, import_torch
from fedmeta.files import to_json

Arms = Annotated[
    str | None,
    typer.Option(help="Arms to run, comma-separated; the others are compared with the first."),
]
Variations = Annotated[
    list[str] | None,
    typer.Option(
        "--arm", metavar="NAME:KEY=VALUE,...", help="An arm of your own: a name and the keys it changes."
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, help="Runs per arm, with consecutive seeds from the config's.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder; default: runs/compare-NAME. Resumes an existing comparison."),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at the same time; default: as many as cores and memory allow."),
]


def compare(  # noqa: PLR0913 (a parameter for each option)
    experiment: Experiment,
    arms: Arms = None,
    arm: Variations = None,
    seeds: Seeds = 3,
    settings: Settings = None,
    out: Out = None,
    jobs: Jobs = None,
    no_check: NoCheck = False,
    debug: Debug = False,
    as_json: Json = False,
) -> None:
    """Compare federated training with centralized and other methods.

    The arms are centralized, federated-iid, federated, fedavg, local, pretrained, untrained, linear,
    prototypes, and those of [compare.arms] and --arm. Those that train use the same number of tasks.
    Each arm and seed is a run. The same command resumes a comparison, and reuses finished runs of the
    same config in runs/.

    Examples:

      fedmeta compare quickstart

      fedmeta compare quickstart --arms federated,fedavg --seeds 5 -s rounds=300

      fedmeta compare quickstart --arms federated --arm fewer:cohort=8
    """
    from fedmeta.comparison.arms import parse_arms, require_arms
    from fedmeta.config import parse_settings
    from fedmeta.experiment.swap import load

    variations = parse_arms(arm or [])
    # An arm may change nothing; its empty table comes before the values that -s sets in it.
    changes: dict[str, Any] = {f"compare.arms.{name}": {} for name in variations}
    changes |= parse_settings(settings or [])
    for name, own in variations.items():
        changes |= {f"compare.arms.{name}.{key}": value for key, value in own.items()}
    names = None if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    if names is not None:
        names += [name for name in variations if name not in names]
    # Refuse before importing torch, which takes seconds.
    require_arms(load(experiment, changes)[0], names, changes)
    import_torch()
    from fedmeta.cli.comparison_display import ComparisonDisplay
    from fedmeta.comparison.compare import Execution
    from fedmeta.comparison.compare import compare as run_comparison

    with ComparisonDisplay(as_json, debug) as display:
        execution = Execution(out, jobs, display.listener, check=not no_check)
        result = run_comparison(experiment, changes, arms=names, seeds=seeds, execution=execution)
    if as_json:
        typer.echo(to_json(result.data))
    else:
        display.show_result(result)
    if result.failures:
        raise typer.Exit(1)
