"""`fedmeta list`: experiments, runs, comparisons, config keys, parts and algorithms."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmeta.cli.commands import Json
from fedmeta.errors import UsageError
from fedmeta.files import one_line, to_json

if TYPE_CHECKING:
    from fedmeta.about import About
    from fedmeta.options import Options

_WIDEST = 1000
_ABOUT = ("family", "year", "learns", "sends", "paper")


class Kind(StrEnum):
    """What to list."""

    experiments = "experiments"
    runs = "runs"
    comparisons = "comparisons"
    keys = "keys"
    parts = "parts"
    algorithms = "algorithms"


def list_(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND", help="experiments, runs, comparisons, keys, parts or algorithms."
        ),
    ] = Kind.experiments,
    runs: Annotated[Path | None, typer.Option(help="Folder of runs; default: runs.")] = None,
    as_json: Json = False,
) -> None:
    """List experiments, runs, comparisons, keys and parts.

    Parts are what a config can name: task families, algorithms, models, training methods, rules and
    behaviours, each with its own options (keys of [data], [learner], [network] and so on).
    Algorithms are listed with their papers, what they learn and what their clients send.
    """
    if runs is not None and not runs.is_dir():
        raise UsageError(f"--runs: there is no folder '{runs}'")
    parent = runs or Path("runs")
    rows = {
        Kind.experiments: _experiments,
        Kind.runs: lambda: _runs(parent),
        Kind.comparisons: lambda: _comparisons(parent),
        Kind.keys: _keys,
        Kind.parts: _parts,
        Kind.algorithms: _algorithms,
    }[kind]()
    if as_json:
        typer.echo(to_json({kind.value: rows}))
        return
    if not rows:
        typer.echo(f"no {kind.value} yet")
        return
    shown = [[one_line(_words(*cell), _WIDEST) for cell in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for cells in shown:
        typer.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        )


def _words(column: str, value: object) -> object:
    """Return a cell's text; in a yes/no column, a yes is shown as the column's name."""
    return (column.replace("_", " ") if value else "") if isinstance(value, bool) else value


def _experiments() -> list[dict[str, Any]]:
    from fedmeta.config import experiment_names, load_config

    return [{"name": name, "description": load_config(name).description} for name in experiment_names()]


def _runs(parent: Path) -> list[dict[str, Any]]:
    from fedmeta.experiment.folder import RunFolder

    rows = []
    # The runs of a comparison are in its folder, one level down.
    for path in sorted([*parent.glob("*/config.toml"), *parent.glob("*/*/config.toml")]):
        folder = RunFolder(path.parent)
        info = folder.info
        rows.append(
            {
                "run": str(path.parent),
                "experiment": _plain(info.get("experiment", "?")),
                "status": folder.status,
                "seed": _plain(info.get("seed", "?")),
                "seconds": _plain(info.get("wall_seconds", "")),
            }
        )
    return rows


def _plain(value: object) -> object:
    # The run may come from anyone, with a list or a table in place of a name or a number.
    return value if isinstance(value, str | int | float) else "?"


def _comparisons(parent: Path) -> list[dict[str, Any]]:
    from fedmeta.comparison.record import COMPARE
    from fedmeta.report.read import read_compare

    rows = []
    for path in sorted(parent.glob(f"*/{COMPARE}")):
        found = read_compare(path.parent)
        record = found.record
        rows.append(
            {
                "comparison": str(path.parent),
                "experiment": record.experiment if record else "?",
                "status": found.status,
                "arms": (",".join(arm.name for arm in record.arms) if record else "") or "?",
                "seeds": len(record.seeds) if record else 0,
                "seconds": _plain((record.model_extra or {}).get("wall_seconds", "")) if record else "",
            }
        )
    return rows


def _keys() -> list[dict[str, Any]]:
    from fedmeta.config import describe_keys

    return [{"key": key, "default": default, "meaning": text} for key, default, text in describe_keys()]


def _parts() -> list[dict[str, Any]]:
    from fedmeta import parts

    kinds = {
        "task": parts.FAMILIES,
        "objective": parts.OBJECTIVES,
        "algorithm": parts.ALGORITHMS,
        "model": parts.MODELS,
        "training": parts.WAYS,
        "aggregation.rule": parts.AGGREGATION_RULES,
        "behaviours.kind": parts.BEHAVIOURS,
        "postprocessors.kind": parts.POSTPROCESSORS,
        "incentives.rule": parts.INCENTIVE_RULES,
    }
    return [
        {"part": kind, "name": name, "options": _shown(registry.options(name))}
        for kind, registry in kinds.items()
        for name in registry
    ]


def _algorithms() -> list[dict[str, Any]]:
    from fedmeta.part_options import read_part
    from fedmeta.parts import ALGORITHMS

    rows = []
    for name in ALGORITHMS:
        found = read_part(*ALGORITHMS.location(name))
        about: About | None = getattr(found, "about", None)
        said = {column: getattr(about, column, "") for column in _ABOUT}
        rows.append({"name": name, **said, "second_order": found.second_order})
    return rows


def _shown(options: "type[Options] | None") -> str:
    return ", ".join(
        name if field.is_required() else f"{name}={field.get_default(call_default_factory=True)}"
        for name, field in (options.model_fields if options else {}).items()
    )
