"""Reads a log of JSON lines, also while it grows: each line is read once."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Generic

from fedmeta.config.seals import made_here
from fedmeta.experiment.rows import METRICS, MOST_BYTES, MOST_ROWS, Limit, LogFile, MetricsRow, Row
from fedmeta.files import MOST_LINE, open_file, reason

OWN = 10
"""How many times as much is read of a run that was made here."""
MOST_VALUES = 1_500_000
"""Values of a log that are read where its rows are kept as they are; see `Limit`."""
MOST_PARSED = 3 * MOST_VALUES
"""Values of a log that are read where its rows are added up."""
_CHECKED = 256
_CHUNK = 1 << 20
_TAIL = 1 << 16


class Log(Generic[Row]):
    """Follows a file of JSON lines.

    A last line without its end is left for later. A file that was cut back, as a resume does, or that
    was replaced by another, is read from its start again.

    Args:
        folder: Where it is.
        kind: What its rows are.
        restart: Called before the file is read from its start.
        add: Called with each row.
        most: Most values read of a run from elsewhere; see `Limit`.

    Attributes:
        problem: What is wrong with the file, in one line; None: nothing.
        bytes_read: Bytes read since the log was made.
    """

    def __init__(
        self,
        folder: Path,
        kind: LogFile[Row],
        restart: Callable[[], None],
        add: Callable[[Row], None],
        most: int = MOST_VALUES,
    ) -> None:
        self._path = folder / kind.name
        self._kind: LogFile[Row] = kind
        self._restart = restart
        self._add: Callable[[Row], None] = add
        self._fresh = partial(limit_of, folder, most)
        self._limit = self._fresh()
        self._most = self._limit.values
        self._offset = 0
        self._file = -1
        self._lines = 0
        self._end = b""
        self.problem: str | None = None
        self.bytes_read = 0

    @property
    def values(self) -> int:
        """Values that were read of it."""
        return self._most - self._limit.values

    def follow(self, last: float = math.inf) -> None:
        """Read what has come since the last call.

        Args:
            last: Rows of later rounds are left for another call.
        """
        self.problem = None
        try:
            with open_file(self._path) as file:
                number = os.fstat(file.fileno()).st_ino
                if number != self._file or not self._goes_on(file):
                    self._file, self._offset, self._lines, self._end = number, 0, 0, b""
                    self._limit = self._fresh()
                    self._most = self._limit.values
                    self._restart()
                file.seek(self._offset)
                self._read(file, last)
        except FileNotFoundError:
            self.problem = f"{self._path.name} is missing"
        except OSError as error:
            self.problem = f"{self._path.name}: {reason(error)}"

    def _goes_on(self, file: BinaryIO) -> bool:
        # Rounds that a resumed run repeats differ in their seconds, so a log that was cut back and has
        # grown past the old place since is detected by the bytes in front of that place.
        file.seek(self._offset - len(self._end))
        found = file.read(len(self._end))
        self.bytes_read += len(found)
        return found == self._end

    def _read(self, file: BinaryIO, last: float) -> None:
        rest = b""
        while chunk := file.read(_CHUNK):
            self.bytes_read += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MOST_LINE:
                lines.append(rest)
            for line in lines:
                if not self._take(line, last):
                    return

    def _take(self, line: bytes, last: float) -> bool:
        """Add a line's row; False: the lines from this one on are not read."""
        row = _row(line, self._kind)
        if row is None:
            self.problem = f"{self._path.name}: line {self._lines + 1} is damaged"
            return False
        round_ = row.get("round")
        if isinstance(round_, int) and round_ > last:
            return False
        if not self._limit.take(line):
            self.problem = too_long(self._path.name, self._lines)
            return False
        self._offset += len(line) + 1
        self._lines += 1
        self._end = (line + b"\n")[-_CHECKED:]
        self._add(row)
        return True


def limit_of(folder: Path, values: int) -> Limit:
    """Return how much of a run's log is read: for runs from elsewhere, what takes less than ten seconds.

    Args:
        folder: The run's.
        values: Most values read of a run from elsewhere.
    """
    times = OWN if made_here(folder) else 1
    return Limit(values * times, MOST_ROWS * times, MOST_BYTES * times)


def too_long(name: str, read: int) -> str:
    """Return that a log is longer than may be read, in one line."""
    return f"{name} is too long: its first {read:,} lines are read"


def last_round(folder: Path) -> tuple[MetricsRow | None, str | None]:
    """Return the last whole row of ``metrics.jsonl`` and what is wrong with it; only its end is read."""
    path = folder / METRICS.name
    try:
        with open_file(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).split(b"\n")[:-1]
    except FileNotFoundError:
        return None, f"{path.name} is missing"
    except OSError as error:
        return None, f"{path.name}: {reason(error)}"
    row = _row(lines[-1], METRICS) if lines else None
    damaged = row is None and (lines or size > _TAIL)
    return row, f"{path.name}: its last line is damaged" if damaged else None


def _row(line: bytes, kind: LogFile[Row]) -> Row | None:
    try:
        return kind.parse(line)
    except ValueError:
        return None
