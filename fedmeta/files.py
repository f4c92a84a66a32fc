"""Safe file access: bounded reads, atomic writes, and harmless JSON, TOML and text.

All code that reads files of untrusted origin uses this module. An unusable file raises an `OSError` with
the reason in ``strerror``, malformed contents raise a `ValueError`; both messages are one short phrase.
"""

import errno
import io
import json
import math
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from fedmeta.toml_text import problem

MOST_JSON = 8 << 20
"""Most bytes of a JSON document: a hostile one takes up to 60 times that in memory."""
MOST_INFO = 1 << 20
"""Most bytes of a ``run.json``, which is read often."""
MOST_TOML = 4 << 20
"""Most bytes of a config."""
MOST_LINE = 1 << 20
"""Most bytes of a line of a log."""
MOST_TENSORS = 4 << 30
"""Most bytes of a tensor file."""

_DEEPEST = 100
_BRACKETS = re.compile(r"[\[\]{}]")
_BRACKET_BYTES = re.compile(rb"[\[\]{}]")
_MOST_DIGITS = 100
_TOO_LARGE = 10**_MOST_DIGITS
_TOO_LONG = f"a number of more than {_MOST_DIGITS} digits"
_ZEROS = b"0" * (_MOST_DIGITS + 1)
_DIGITS_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = re.compile(rf"(?<![0-9_])[0-9_]{{{_MOST_DIGITS + 1}}}")
_KEY = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
# tomllib takes quadratic time in the length of a dotted key.
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{{_DEEPEST}}}")
_TEMPORARY = ".fedmeta-{}.tmp"
# C0 except tab and line feed, DEL and C1; characters that change the writing direction, end a line or
# are invisible. Joiners are allowed: some scripts need them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def to_json(value: Any, **layout: Any) -> str:
    """Return plain values as strict JSON (RFC 8259); non-finite numbers become null.

    Args:
        value: Dicts, lists, tuples, strings and numbers.
        layout: Arguments of `json.dumps`, such as ``indent``.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, **layout)


def finite(value: Any) -> Any:
    """Return plain values with None for each non-finite number."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    r"""Return text that is safe to print on a terminal.

    Control characters except tab and line feed, direction marks, and invisible tags are escaped, as
    ``\x1b`` or ``\u202e``.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: object, most: int = 1000) -> str:
    """Return a text as one printable line of at most `most` characters."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= most else f"{line[:most]}…"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def open_file(path: Path, most: int | None = None, follow: bool = True) -> io.BufferedReader:
    """Open a regular file for reading; a pipe or a device could block forever.

    Args:
        path: The file.
        most: Largest size in bytes; None: no limit.
        follow: Whether it may be a symbolic link.

    Raises:
        OSError: If it cannot be opened, is not a regular file, or is too large.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        found = os.fstat(number)
        _require_regular(path, found)
        if most is not None and found.st_size > most:
            raise _too_large(path, most)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_file(path: Path, most: int, follow: bool = True) -> bytes:
    """Return the content of a file; see `open_file`."""
    with open_file(path, most, follow) as file:
        # It may grow while it is read, and files of /proc report no size.
        data = file.read(most + 1)
    if len(data) > most:
        raise _too_large(path, most)
    return data


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a log including line ends; an incomplete last line is left out.

    Raises:
        OSError: If it cannot be opened, or is not a regular file.
        ValueError: If a line is longer than `MOST_LINE`.
    """
    with open_file(path) as file:
        while (line := file.readline(MOST_LINE + 1)).endswith(b"\n"):
            yield line
        if len(line) > MOST_LINE:
            raise ValueError("a line is too long")


def parse_json(data: bytes | str) -> Any:
    """Parse a possibly hostile JSON text.

    Raises:
        ValueError: If it is not JSON, nested too deeply, or has an integer with too many digits.
    """
    # Python's parser crashes on deep nesting after py-evm has raised the recursion limit.
    if len(data) > _DEEPEST and _depth(data) > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    # Python's parser takes ten times as long for a log line; it is only used if the fast one fails.
    try:
        value = from_json(data)
    except ValueError:
        return _DECODER.decode(_text(data))
    if len(data) > _MOST_DIGITS and _has_many_digits(data):
        _require_short(value)
    return value


def _has_many_digits(data: bytes | str) -> bool:
    """Return whether there are more digits in a row than a number may have, even in a string."""
    if isinstance(data, str):
        return _LONG_NUMBER.search(data) is not None
    # For a log line this takes a hundredth of a regular expression's time.
    return _ZEROS in data.translate(_DIGITS_TO_ZEROS)


def _require_short(value: object) -> None:
    """Refuse integers with too many digits in plain values, which are not nested deeply."""
    parts = value.values() if type(value) is dict else value if type(value) is list else (value,)
    for one in parts:
        if type(one) is int:
            if abs(one) >= _TOO_LARGE:
                raise ValueError(_TOO_LONG)
        elif type(one) is dict or type(one) is list:
            _require_short(one)


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """Parse a JSON file; raises as `read_file` and `parse_json` do."""
    return parse_json(read_file(path, most))


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a possibly hostile TOML text.

    Raises:
        ValueError: If it is not TOML, nested too deeply, or has an integer with too many digits.
    """
    if _depth(text) > _DEEPEST or _LONG_KEY.search(text):
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if _LONG_NUMBER.search(text):
        raise ValueError(f"has {_TOO_LONG}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(problem(text, error)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises as `read_toml_text` and `parse_toml` do."""
    return parse_toml(read_toml_text(path))


def read_toml_text(path: Path) -> str:
    """Return the text of a TOML file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8 text.
    """
    data = read_file(path, MOST_TOML)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text") from None
    return text.replace("\r\n", "\n")


def reason(error: Exception) -> str:
    """Return why a file could not be read, in a phrase."""
    found = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return one_line(found, 200)


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else data.decode()


def _depth(data: bytes | str) -> int:
    """Return an upper bound of the nesting depth of brackets; cheap where there are few."""
    if isinstance(data, str):
        opened, found = data.count("[") + data.count("{"), _BRACKETS.finditer(data)
        return opened if opened <= _DEEPEST else _deepest(one[0] in "[{" for one in found)
    opened = data.count(b"[") + data.count(b"{")
    if opened <= _DEEPEST:
        return opened
    return _deepest(one[0] in b"[{" for one in _BRACKET_BYTES.finditer(data))


def _deepest(opening: Iterator[bool]) -> int:
    return max(accumulate(1 if one else -1 for one in opening))


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(_TOO_LONG)
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


def _require_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def _too_large(path: Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"Larger than {most >> 20} MiB", str(path))


def from_later(info: Mapping[str, Any], key: str, most: int) -> str | None:
    """Return a message if a later version of fedmeta wrote a file, else None.

    Args:
        info: Metadata with the file's version or format number, and the ``versions`` that wrote it.
        key: The key of that number.
        most: The highest supported number.
    """
    found, versions = info.get(key), info.get("versions")
    if type(found) is not int or found <= most:
        return None
    known = one_line(versions.get("fedmeta", "?"), 40) if isinstance(versions, dict) else "?"
    return f"of {key} {found}, written by fedmeta {known}: this version reads up to {most}"


def open_new(path: Path, mode: int = 0o644) -> BinaryIO:
    """Create a new file and open it for writing.

    Args:
        path: The file.
        mode: Its permissions, subject to the umask; by default only its owner may write, since a roster,
            for example, decides who is paid.

    Raises:
        OSError: If `path` exists, even as a symbolic link, or cannot be created.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open our own file for writing, created if missing; return its file descriptor.

    Args:
        path: The file.
        flags: Flags of `os.open`, besides those that exclude links, pipes and devices.
        mode: Permissions of a new file, subject to the umask.

    Raises:
        OSError: If it cannot be opened, or is a symbolic link or not a regular file.
    """
    guards = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(path, flags | guards, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(
                errno.ELOOP, "A symbolic link, which is not written through", str(path)
            ) from None
        raise
    try:
        _require_regular(path, os.fstat(number))
    except OSError:
        os.close(number)
        raise
    return number


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file `path` atomically: a crash leaves either the old or the new file, complete.

    A symbolic link at `path` is itself replaced; its target is not changed.

    Raises:
        OSError: If the disk is full or not writable; the old file is unchanged.
    """
    temporary = path.with_name(_TEMPORARY.format(secrets.token_hex(8)))
    try:
        with open_new(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder to disk, so that files created or renamed in it are durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_unfinished(path: Path) -> bool:
    """Return whether a file is a leftover of `write_atomically` in a killed process."""
    return path.match(_TEMPORARY.format("*"))


def remove_unfinished(folder: Path) -> None:
    """Remove the leftovers of killed processes in a folder that no process is writing to."""
    for path in folder.iterdir():
        if is_unfinished(path):
            path.unlink(missing_ok=True)
