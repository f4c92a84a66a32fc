"""`fedmeta data`: the data sets, where they are, and how to get them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from fedmeta.cli.run import Json
from fedmeta.files import to_json

app = typer.Typer(
    help="List the data sets, or fetch one from its official address.", no_args_is_help=True
)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the data sets with where they are; digits come with scikit-learn and sinusoids with none."""
    from fedmeta.tasks.sources import sources, where

    rows = []
    for source in sources().values():
        size = sum(file.size for file in source.files)
        rows.append(
            {
                "name": source.name,
                "what": source.what,
                "licence": source.licence,
                "bytes": size,
                "folder": str(where(source.name)) if where(source.name) else None,
            }
        )
    if as_json:
        typer.echo(to_json({"data": rows}))
        return
    for row in rows:
        place = row["folder"] or f"not here: fedmeta data fetch {row['name']}"
        typer.echo(f"{row['name']:14} {row['what']} ({row['licence']})\n{'':14} {place}")


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A data set of `fedmeta data list`.")],
    folder: Annotated[Path | None, typer.Option(help="Where to; by default the cache folder.")] = None,
    as_json: Json = False,
) -> None:
    """Download a data set from its official address, checked by SHA-256.

    A download that was cut off goes on from where it stopped. Nothing is kept that does not match.
    """
    from fedmeta.tasks import fetch as fetching

    with _bars() as show:
        paths = fetching.fetch(name, folder, progress=show)
    if as_json:
        typer.echo(to_json({"fetched": [str(path) for path in paths]}))
    else:
        for path in paths:
            typer.echo(str(path))


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield what draws the progress of each file on a terminal; None where nobody watches.

    Drawing begins with the first bytes, so that an error before them stays a line of its own.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def show(path: str, done: int, size: int) -> None:
        bars.start()
        if path not in tasks:
            tasks[path] = bars.add_task(path, total=size)
        bars.update(tasks[path], completed=done)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()
