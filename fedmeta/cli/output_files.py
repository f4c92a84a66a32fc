"""Checks and writes the files that options name."""

from pathlib import Path

import typer

from fedmeta.errors import UsageError
from fedmeta.files import one_line, write_atomically


def require_weights_file(option: str, file: Path | None) -> None:
    """Refuse to replace a file that does not hold weights by its name."""
    if file is not None and file.is_file() and file.suffix != ".safetensors":
        raise UsageError(f"{option}: {file} exists and is not a .safetensors file: name another")


def require_new(file: Path, *folders: Path) -> None:
    """Refuse a file that exists, has no folder to go to, or is in a folder that the command reads."""
    if file.exists():
        raise UsageError(f"{file} exists: remove it, or name another file for --pictures")
    if not file.parent.is_dir():
        raise UsageError(f"--pictures: no folder {file.parent} for {file.name}: create it first")
    for folder in folders:
        if folder.is_dir() and file.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"--pictures: {file} is in {folder}, whose files are read: name one elsewhere"
            )


def write_pictures(file: Path, png: bytes, left_out: int = 0) -> None:
    """Write a PNG; say on stderr where it is, and how many images it leaves out."""
    try:
        write_atomically(file, png)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    rest = f"; {left_out} more images are not drawn" if left_out else ""
    typer.echo(f"pictures are in {one_line(file)}{rest}", err=True)
