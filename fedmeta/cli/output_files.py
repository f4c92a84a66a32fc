"""Checks and writes the files that options name."""

from pathlib import Path

import typer

from fedmeta.errors import UsageError
from fedmeta.files import one_line, write_atomically


def require_weights_file(option: str, file: Path | None) -> None:
    """Refuse a folder, and to replace a file that holds anything but weights.

    Args:
        option: The option that names the file, for messages.
        file: The file to write; None: the option was not given.

    Raises:
        UsageError: If it is refused.
    """
    if file is None:
        return
    if file.is_dir():
        raise UsageError(f"{option}: {file} is a folder: name a file, such as model.safetensors")
    if file.is_file() and file.stat().st_size and not _holds_weights(file):
        raise UsageError(f"{option}: {file} exists and is not a .safetensors file: name another")


def _holds_weights(file: Path) -> bool:
    """Return whether a file begins as the safetensors format does: a header's size, and the header."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def require_new(file: Path, *folders: Path) -> None:
    """Refuse a file that exists, has no folder to go to, or is in a folder that the command reads.

    Raises:
        UsageError: If it is refused.
    """
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
    """Write a PNG; say on stderr where it is, and how many images it leaves out.

    Raises:
        UsageError: If the file cannot be written.
    """
    try:
        write_atomically(file, png)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    rest = f"; {left_out} more images are not drawn" if left_out else ""
    typer.echo(f"pictures are in {one_line(file)}{rest}", err=True)
