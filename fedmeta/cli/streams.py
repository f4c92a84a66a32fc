"""Robust stdout and stderr."""

import codecs
import errno
import io
import os
import sys
from typing import IO, cast

from fedmeta.files import printable

_PLAIN = str.maketrans({"±": "+-", "…": "...", "–": "-", "—": "-", "’": "'", "“": '"', "”": '"'})
_GONE = (errno.EPIPE, errno.EIO)
"""Errors of a reader or a terminal that went away."""


class LastingFile(io.FileIO):
    """A file that drops what cannot be written any more.

    Attributes:
        lost: Why something was dropped that somebody still waits for, on a full disk say; None: nothing
            was, or the reader went away.
    """

    lost: OSError | None = None

    def write(self, data: object) -> int:
        """Write what can be written; say that all was."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _GONE:
                self.lost = self.lost or error
            return len(memoryview(data))  # type: ignore[arg-type]


class PlainText(io.TextIOWrapper):
    """A stream whose text changes nothing on a terminal but by its letters, whoever it comes from."""

    def write(self, text: str) -> int:
        """Write text with its control characters escaped."""
        super().write(printable(text))
        return len(text)


class _Styled:
    """The same stream for a library that writes the terminal's colours and cursor itself."""

    def __init__(self, stream: PlainText) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def styled(stream: IO[str]) -> IO[str]:
    """Return a stream that takes control characters, for text that was made `printable` before."""
    return cast(IO[str], _Styled(stream)) if isinstance(stream, PlainText) else stream


def steady() -> LastingFile:
    """Replace this process's stdout and stderr by ones that last; return the file behind stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Closed by whoever started us: the next file that is opened would take its place.
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("fedmeta", _degraded)
    files = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is not None:
            before.flush()
        file = LastingFile(number, "wb", closefd=False)
        encoding = before.encoding if before is not None else "utf-8"
        buffered = file.isatty() or name == "stderr"
        text = PlainText(io.BufferedWriter(file), encoding, errors="fedmeta", line_buffering=buffered)
        setattr(sys, name, text)
        files.append(file)
    return files[0]


def _degraded(error: UnicodeError) -> tuple[str, int]:
    """Show what an encoding lacks in plain letters, or as a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(one if one.isascii() else "?" for one in lacking), error.end


MOST_SHOWN = 4000
"""Characters of a line about a problem; what somebody else wrote may be of any length."""
