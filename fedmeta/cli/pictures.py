"""Writes the PNG of a command's ``--pictures`` option."""

from pathlib import Path

import typer

from fedmeta.errors import UsageError
from fedmeta.files import one_line, write_atomically


def require_new(file: Path, *folders: Path) -> None:
    """Refuse an existing file, or one in a folder that the command reads."""
    if file.exists():
        raise UsageError(f"{file} exists: remove it, or name another file for --pictures")
    for folder in folders:
        if folder.is_dir() and file.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"--pictures: {file} is in {folder}, whose files are read: name one elsewhere"
            )


def write_pictures(file: Path, png: bytes) -> None:
    """Write a PNG, and say where it is on stderr."""
    try:
        write_atomically(file, png)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    typer.echo(f"pictures are in {one_line(file)}", err=True)
