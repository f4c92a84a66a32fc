"""`fedmeta report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmeta.cli.commands import Json
from fedmeta.files import one_line, to_json

if TYPE_CHECKING:
    from fedmeta.report.writing import Written


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run and comparison folders.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Default: report.html in the folder; here if there are several."
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the charts as PNG to this folder.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write all numbers as CSV to this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an HTML report of runs and comparisons, with charts.

    The file opens offline. Nothing is recomputed, and a run may still be in progress. Exit code 1 if a
    folder is damaged: the report names the damage and shows the rest.

    Examples:

      fedmeta report runs/quickstart-001

      fedmeta report runs/compare-quickstart --png figures --csv numbers

      fedmeta report runs/a runs/b --out both.html
    """
    from fedmeta.report.read import require_folder

    for one in folders:
        require_folder(one)  # refuse before importing the report's libraries
    from fedmeta.report.writing import write_report

    written = write_report(folders, out, png, csv)
    problems = [f"{part.name}: {part.problem}" for part in written.parts if part.problem]
    for line in problems:
        typer.echo(f"fedmeta: {one_line(line)}", err=True)
    if as_json:
        typer.echo(to_json(_plain(written)))
    else:
        typer.echo(f"the report is in {written.report}")
        for files, what, folder in (
            (written.pictures, "pictures", png),
            (written.sheets, "CSV files", csv),
        ):
            if files:
                typer.echo(f"{len(files)} {what} are in {folder}")
    if problems:
        raise typer.Exit(1)


def _plain(written: "Written") -> dict[str, Any]:
    return {
        "report": str(written.report),
        "inputs": [
            {
                "name": part.name,
                "kind": part.kind,
                "status": part.status,
                "problem": part.problem or None,
            }
            for part in written.parts
        ],
        "png": [str(path) for path in written.pictures],
        "csv": [str(path) for path in written.sheets],
    }
