"""A console that prints text literally, and base class of progress displays."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

from fedmeta.cli.streams import MOST_SHOWN, styled
from fedmeta.files import one_line, printable


class SafeConsole(Console):
    """Prints text literally: no markup, no cursor movement.

    Args:
        stderr: Print to stderr instead of stdout.
    """

    def __init__(self, stderr: bool = False) -> None:
        file = styled(sys.stderr if stderr else sys.stdout)
        super().__init__(file=file, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Return a text or table cell, ready to draw."""
        return super().render_str(printable(text), **how)


class Screen:
    """Base class of progress displays.

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
