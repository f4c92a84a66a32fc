"""``errors.log``: the tracebacks of a run's clients, once for each kind of failure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedmeta.errors import FedmetaError
from fedmeta.federation.failures import Failure, failure_of, watched
from fedmeta.files import open_file, printable, write_atomically

ERRORS = "errors.log"
MOST_KINDS = 50
"""Kinds of failures that are written down; those of others are counted."""
KEPT_BYTES = 150_000
"""What is kept of the file of an earlier process."""


@dataclass
class _Kind:
    failure: Failure
    first: str
    last: str
    count: int = 1

    @property
    def text(self) -> str:
        often = f"{self.count} times, last in {self.last}" if self.count > 1 else "once"
        body = self.failure.traceback or f"{self.failure.reason}\n"
        return f"{self.first}: {self.failure.reason} ({often})\n{body}\n"


class ErrorLog:
    """Writes down what the code of clients raised; it never ends a run itself.

    The file holds at most `MOST_KINDS` tracebacks of a process, and the end of what earlier ones left:
    less than 1 MB.

    Args:
        path: The file.
        tell: Called with the traceback of each kind of failure when it is first met.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path = path
        self._tell = tell
        self._kinds: dict[str, _Kind] = {}
        self._others = 0
        self._earlier: bytes | None = None

    def add(self, round_: int, client: int | None, failure: Failure) -> None:
        """Write a failure down if it is the first of its kind, else count it."""
        when = f"round {round_}" if round_ else "the final test"
        self.put(when if client is None else f"{when}, client {client}", failure)

    def put(self, where: str, failure: Failure) -> None:
        """As `add`, with any words for who failed when."""
        known = self._kinds.get(failure.place or failure.reason)
        if known:
            known.count, known.last = known.count + 1, where
        elif len(self._kinds) < MOST_KINDS:
            kind = _Kind(failure, where, where)
            self._kinds[failure.place or failure.reason] = kind
            self.write()
            self._tell(kind.text)
        else:
            self._others += 1

    def write(self) -> None:
        """Replace the file by what is known now; where it cannot be written, leave it."""
        if not self._kinds:
            return
        with suppress(OSError):
            if self._earlier is None:
                self._earlier = _end_of(self.path)
            more = f"and {self._others} failures of other kinds\n" if self._others else ""
            text = "".join(kind.text for kind in self._kinds.values()) + more
            data = printable(text).encode(errors="backslashreplace")
            write_atomically(self.path, self._earlier + data)


def _end_of(path: Path) -> bytes:
    try:
        # A link could bring in what belongs elsewhere.
        with open_file(path, follow=False) as file:
            file.seek(max(0, file.seek(0, 2) - KEPT_BYTES))
            return file.read(KEPT_BYTES)
    except OSError:
        return b""


@contextmanager
def error_log(folder: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """Keep a run's ``errors.log`` while the block lasts; yield its path.

    An error of ours that nobody expected is written down as well, and a note on it says where.
    """
    log = ErrorLog(folder / ERRORS, tell)
    try:
        with watched(log.add):
            yield log.path
    except Exception as error:
        if not isinstance(error, FedmetaError | OSError):
            log.put("the run itself", failure_of(error))
            error.add_note(f"the traceback is in {log.path}")
        raise
    finally:
        log.write()
