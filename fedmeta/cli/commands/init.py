"""`fedmeta init`: write a first config for a user's own data."""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.cli.commands import Json
from fedmeta.errors import UsageError
from fedmeta.files import one_line, open_new, to_json


def init(
    path: Annotated[Path, typer.Argument(help="Your data, as for `fedmeta data check`.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config to write; default: the data's name.toml.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A client, CLIENT/CLASS or file to leave out; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a first config for your own data.

    The task family, the model and the sizes of tasks follow from what is found; comments give the reason
    for each choice. The config runs as it is. An existing file is not replaced.

    Example:

      fedmeta init drawings && fedmeta run drawings.toml
    """
    from fedmeta.tasks.own.folders import require_data

    require_data(path, skip or ())  # refuse before importing torch
    file = out or Path(f"{_plain(path.resolve().stem)}.toml")
    if file.exists():
        raise UsageError(f"{file} exists: remove it, or name another with --out")
    from fedmeta.experiment.first_config import first_config

    text = first_config(path, skip or ())
    try:
        with open_new(file) as opened:
            opened.write(text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    if as_json:
        typer.echo(to_json({"config": str(file)}))
        return
    typer.echo(str(file))
    sys.stderr.write(f"fedmeta: next: fedmeta run {one_line(shlex.quote(str(file)))}\n")


def _plain(name: str) -> str:
    """Return a name that needs no quoting in a shell."""
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "own"
