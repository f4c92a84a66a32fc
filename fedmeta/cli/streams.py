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
"""Errors raised when the reader or the terminal is gone."""


class LastingFile(io.FileIO):
    """A file that drops output it can no longer write.

    Attributes:
        lost: Error that lost output a reader still expects, such as a full disk; None if nothing was
            lost or the reader is gone.
    """

    lost: OSError | None = None

    def write(self, data: object) -> int:
        """Write what can be written, and report all of it as written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _GONE:
                self.lost = self.lost or error
            return len(memoryview(data))  # type: ignore[arg-type]


class PlainText(io.TextIOWrapper):
    """A text stream that escapes control characters."""

    def write(self, text: str) -> int:
        """Write text with its control characters escaped."""
        super().write(printable(text))
        return len(text)


class _Styled:
    """The same stream for a library that writes colours and moves the cursor itself."""

    def __init__(self, stream: PlainText) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def styled(stream: IO[str]) -> IO[str]:
    """Return a stream that accepts control characters, for text already made `printable`."""
    return cast(IO[str], _Styled(stream)) if isinstance(stream, PlainText) else stream


def steady() -> LastingFile:
    """Replace stdout and stderr by streams that survive write errors; return the file behind stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Closed by the parent process; the next opened file would take its descriptor.
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
    """Replace characters that an encoding lacks by plain letters or question marks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(one if one.isascii() else "?" for one in lacking), error.end


MOST_SHOWN = 4000
"""Longest error line, in characters: text from others may have any length."""
