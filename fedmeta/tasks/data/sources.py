"""The data sets that fedmeta knows: where their files lie on this machine, and how to download them."""

import hashlib
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fedmeta.errors import ConfigError, DataError, MissingDataError
from fedmeta.files import open_file, open_own
from fedmeta.options import nearest


@dataclass(frozen=True)
class SourceFile:
    """One official file.

    Attributes:
        path: Where it lies in a data folder, such as ``omniglot/images_evaluation.zip``.
        url: Its official address.
        size: Its size in bytes, which is also the most that a download may be.
        sha256: Its SHA-256, in hexadecimal.
    """

    path: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A data set: what it is, its licence and its files."""

    name: str
    what: str
    licence: str
    files: tuple[SourceFile, ...]


def _omniglot(part: str, size: int, sha256: str) -> SourceFile:
    url = f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip"
    return SourceFile(f"omniglot/{part}.zip", url, size, sha256)


# Sizes and sums of the two small sets were measured on the files. Those of the full sets are the ones
# that TensorFlow Datasets publishes (url_checksums/omniglot.txt), which agree on the small sets.
_SMALL = (
    _omniglot(
        "images_background_small1",
        1_319_022,
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    ),
    _omniglot(
        "images_background_small2",
        1_580_917,
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ),
)
_FULL = (
    _omniglot(
        "images_background",
        9_464_212,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    _omniglot(
        "images_evaluation",
        6_462_886,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
)
_PLAYS = SourceFile(
    "tinyshakespeare/input.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def sources() -> Mapping[str, Source]:
    """Return the data sets that can be fetched, by name."""
    small = "handwritten characters, the two small official sets: 8 alphabets, 242 characters"
    full = "handwritten characters, the full official sets: 50 alphabets, 1,623 characters"
    known = (
        Source("omniglot", small, "MIT", _SMALL),
        Source("omniglot-full", full, "MIT", _FULL),
        Source(
            "shakespeare", "plays, a client is a speaker: tiny Shakespeare", "public domain", (_PLAYS,)
        ),
    )
    return MappingProxyType({source.name: source for source in known})


def cache_folder() -> Path:
    """Return the folder that files are fetched to and decoded data is kept in."""
    named = os.environ.get("FEDMETA_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "fedmeta"


def locate(path: str, source: str) -> Path:
    """Return where the data file `path` lies: in ``FEDMETA_DATA`` or else in the cache.

    Raises:
        MissingDataError: If it is in neither; the message says how to fetch `source`.
    """
    folders = _folders()
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    places = " or ".join(str(folder) for folder in folders)
    raise MissingDataError(f"{path} is not in {places}: {how_to_fetch(source)}")


def where(name: str) -> Path | None:
    """Return the folder that the source `name` would be read from, None if a file of it is missing."""
    for folder in _folders():
        if all((folder / file.path).is_file() for file in source_named(name).files):
            return folder
    return None


def how_to_fetch(source: str, corrupt: Path | None = None) -> str:
    """Return the hint that a message about a missing data file ends with, or about a corrupt one.

    Args:
        source: The data set.
        corrupt: The bad file, as `locate` found it. It is replaced where it lies, since a sound one in
            the cache would not be read as long as a bad one lies in ``FEDMETA_DATA``.
    """
    command = f"fedmeta data fetch {source}"
    if corrupt is not None:
        depth = len(Path(source_named(source).files[0].path).parts)
        command += f" --folder {shlex.quote(str(corrupt.parents[depth - 1]))}"
    return f"fetch it with `{command}`, or name a folder that has it in FEDMETA_DATA"


def sha256_of(path: Path, most: int | None = None) -> str:
    """Return the SHA-256 of a file, in hexadecimal; `DataError` if it is too large or unreadable."""
    try:
        with open_file(path, most) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def digest_of(files: Iterable[Path]) -> str:
    """Return one SHA-256 of the contents of files, in their order; `DataError` if one cannot be read."""
    return hashlib.sha256(" ".join(sha256_of(file) for file in files).encode()).hexdigest()


def source_named(name: str) -> Source:
    """Return the source called `name`; `ConfigError` with the nearest one if there is none."""
    known = sources()
    if name not in known:
        raise ConfigError(f"unknown data set '{name}': {nearest(name, known)}")
    return known[name]


def _folders() -> list[Path]:
    named = os.environ.get("FEDMETA_DATA")
    return ([Path(named).expanduser()] if named else []) + [cache_folder()]


CHUNK = 1 << 16
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3

Opener = Callable[..., Any]
Progress = Callable[[str, int, int], None]


def fetch(
    name: str, folder: Path | None = None, opener: Opener = urlopen, progress: Progress | None = None
) -> list[Path]:
    """Download the files of source `name` that `folder` (the cache by default) does not hold yet.

    Args:
        name: One of `sources`.
        folder: Where to; files lie in it as in ``FEDMETA_DATA``.
        opener: Called as ``opener(request, timeout=seconds)``, as `urllib.request.urlopen` is.
        progress: Called with a file's path, its bytes so far and in all.

    Raises:
        ConfigError: If there is no such source.
        DataError: If a file cannot be had whole; what has arrived is kept and resumed from next time.
    """
    target = folder or cache_folder()
    return [fetch_file(file, target, opener, progress) for file in source_named(name).files]


def fetch_file(
    file: SourceFile, folder: Path, opener: Opener = urlopen, progress: Progress | None = None
) -> Path:
    """Download one file as `fetch` does: bounded in size, resumed, checked, and put in place at once."""
    path = folder / file.path
    part = path.with_name(path.name + ".part")
    try:
        if path.is_file() and sha256_of(path) == file.sha256:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        _complete(file, part, opener, progress or _silent)
        found = sha256_of(part)
        if found != file.sha256:
            part.unlink()
            raise DataError(
                f"{file.url} does not have the expected content: SHA-256 {found}, not {file.sha256}; "
                "nothing was kept, try again later"
            )
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _complete(file: SourceFile, part: Path, opener: Opener, progress: Progress) -> None:
    """Bring the part file to its full size, in a few attempts that each go on from the last."""
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
            "run the command again to go on from there"
        )


class _Unreachable(Exception):
    """The network failed in a way that another attempt may mend."""


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
        if have > file.size:
            out.truncate(0)
            raise DataError(
                f"{file.url} is larger than the {file.size} bytes expected; nothing was kept"
            )
        out.write(block)
        progress(file.path, have, file.size)
    out.flush()
    os.fsync(out.fileno())


def _silent(path: str, have: int, size: int) -> None:
    """Show no progress."""
