"""Robust stdout and stderr, and live lines on a terminal."""

import codecs
import errno
import io
import os
import sys
import time
from types import TracebackType
from typing import IO, Any, Self, cast

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

from fedmeta.files import one_line, printable

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


class SafeConsole(Console):
    """Shows text as it is: nothing in it is markup or moves the cursor.

    Args:
        stderr: Where to, instead of stdout.
    """

    def __init__(self, stderr: bool = False) -> None:
        file = styled(sys.stderr if stderr else sys.stdout)
        super().__init__(file=file, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Return a text, or a cell of a table, as it is to be drawn."""
        return super().render_str(printable(text), **how)


MOST_SHOWN = 4000
"""Characters of a line about a problem; what somebody else wrote may be of any length."""


class Screen:
    """Base of what shows a command's progress.

    Args:
        quiet_stdout: Keep stdout for JSON; progress goes to stderr as plain lines.
        every: Seconds between two plain lines.
    """

    def __init__(self, quiet_stdout: bool, every: float) -> None:
        self.console = SafeConsole(stderr=quiet_stdout)
        self.live = self.console.is_terminal and not quiet_stdout
        self.every = every
        self._progress: Progress | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self, *columns: ProgressColumn) -> Progress:
        self._progress = Progress(*columns, console=self.console, refresh_per_second=4)
        self._progress.start()
        return self._progress

    def _stop(self) -> None:
        if self._progress:
            self._progress.stop()

    def _is_line_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line <= self.every:
            return False
        self._last_line = now
        return True

    def _traceback(self, text: str) -> None:
        sys.stderr.write(f"{printable(text)}\n")

    def _note(self, line: str) -> None:
        sys.stderr.write(f"fedmeta: {one_line(line, MOST_SHOWN)}\n")
