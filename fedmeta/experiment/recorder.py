"""Writes a run's logs and checkpoints after each round, and its clients' tracebacks."""

import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedmeta.config import Config
from fedmeta.errors import FedmetaError, RunError
from fedmeta.experiment.checkpoint import Manifest
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.rows import CLIENTS, LOGS, METRICS, begun_with_codes, client_row, metrics_row
from fedmeta.federation import RoundRecord, Snapshot, counting_missing, tensors_digest
from fedmeta.federation.failures import Failure, failure_of, watched
from fedmeta.files import open_file, open_own, printable, write_atomically

RoundListener = Callable[[RoundRecord], None]


@dataclass
class _Log:
    file: BinaryIO
    length: int

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self.file.flush()
        self.length += len(data)


class Recorder:
    """Observer that keeps a run's folder up to date.

    A round counts as finished once a checkpoint covers it. The checkpoint has the length of the logs at
    that round: later lines are truncated when the run resumes, and the same rounds write them again.

    Args:
        folder: The run's folder, locked by this process.
        config: The run's config, which says when to checkpoint.
        listener: Called after each round, for a progress display.
        covered: Called with a round as soon as a checkpoint covers it and all before it.
        track: Called with each row of ``metrics.jsonl``.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        listener: RoundListener,
        covered: Callable[[int], None] = lambda _: None,
        track: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.listener = listener
        self.covered = covered
        self.track = track
        self._columns = {
            "coded": begun_with_codes(folder.path),
            "signed": config.chain.enabled,
            "paid": config.incentives.rule != "none",
        }
        self._logs: dict[str, _Log] = {}
        try:
            for name in LOGS:
                self._logs[name] = self._open(name)
        except OSError:
            self.close()
            raise
        self._pending: tuple[RoundRecord, Snapshot, dict[str, int]] | None = None
        self._clock = time.monotonic()

    def _open(self, name: str) -> _Log:
        path = self.folder.path / name
        file = os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab")
        return _Log(file, path.stat().st_size)

    def shorter_than(self, manifest: Manifest) -> str | None:
        """Return the name of a log that lost lines since a checkpoint, or None if none did."""
        return next(
            (n for n, log in self._logs.items() if log.length < manifest.log_bytes.get(n, 0)), None
        )

    def rewind(self, manifest: Manifest | None) -> None:
        """Truncate the logs to their length at a checkpoint; None: to 0."""
        for name, log in self._logs.items():
            log.length = manifest.log_bytes.get(name, 0) if manifest else 0
            log.file.truncate(log.length)

    def on_round(self, record: RoundRecord, snapshot: Snapshot) -> None:
        """Append the round to the logs, and write a checkpoint if one is due.

        Raises:
            RunError: If the disk is full or cannot be written; finished rounds are kept.
        """
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        try:
            row = metrics_row(record)
            if self.config.chain.enabled:
                row["model"] = tensors_digest(snapshot.state).hex()
            row["seconds"] = round(seconds, 6)
            clients = [client_row(client, **self._columns) for client in record.clients]
            # In this order, so that a reader finds the clients of every round in the metrics.
            self._logs[CLIENTS.name].append(CLIENTS.write(clients))
            self._logs[METRICS.name].append(METRICS.write([row]))
            lengths = {name: log.length for name, log in self._logs.items()}
            self._pending = (record, snapshot, lengths)
            if self._due(record):
                self.checkpoint()
        except OSError as error:
            raise self._disk_error(error, record.round) from None
        self.track(row)
        self.listener(record)

    def _due(self, record: RoundRecord) -> bool:
        # Evaluated rounds are checkpointed too, as one of them may be the best.
        every = record.round % self.config.checkpoint_every == 0
        return every or record.evaluation is not None or record.round == self.config.rounds

    def checkpoint(self) -> None:
        """Write a checkpoint of the last logged round, unless there is one."""
        if self._pending is None:
            return
        record, snapshot, lengths = self._pending
        for log in self._logs.values():
            os.fsync(log.file.fileno())
        self.folder.checkpoints.save(snapshot, lengths, score(record, self.config))
        self._pending = None
        self.covered(record.round)

    def close(self) -> None:
        """Close the logs; lines that cannot be flushed are truncated at the next resume."""
        for log in self._logs.values():
            try:
                log.file.close()
            except OSError:
                # The disk is full, which has been reported, and these rounds never finished.
                continue

    def _disk_error(self, error: OSError, round_: int) -> RunError:
        for place in (self.folder.path, self.folder.checkpoints.folder):
            if not place.is_dir():
                return RunError(
                    f"round {round_}: the folder {place} was removed during the run: "
                    "restore it and resume the run, or start a new one"
                )
        good = self.folder.checkpoints.rounds()
        kept = f"the checkpoint of round {good[0]} is safe" if good else "no round was finished"
        cause = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
        return RunError(
            f"round {round_}: cannot write to {self.folder.path}: {cause}; {kept}; "
            f"resume with `fedmeta resume {self.folder.path}`"
        )


def score(record: RoundRecord, config: Config) -> float | None:
    """Score a round to find the best checkpoint; higher is better, None means no score.

    The score is the validation clients' main measure after their last adaptation step, or, without such
    clients, the training clients' loss after adaptation. Test clients are never used. Tasks that
    diverged and clients that did not answer count as the worst; a measure without a worst value, such as
    a loss, then gives no score.
    """
    if record.evaluation:
        last = record.evaluation[-1]
        value, scale = last.measures[last.main].mean, last.scale
        found = counting_missing(value, scale.worst, last.clients, last.clients_asked)
        return found if found is None or scale.higher_is_better else -found
    if config.evaluation.every or record.skipped or not math.isfinite(record.loss):
        return None
    return -record.loss


ERRORS = "errors.log"
MOST_KINDS = 50
"""Most kinds of failures to log; others are counted."""
KEPT_BYTES = 150_000
"""Bytes kept of an earlier process's file."""


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
    """Logs the exceptions of clients' code; it never ends a run itself.

    The file has at most `MOST_KINDS` tracebacks of a process, and the end of the earlier file, and stays
    below 1 MB.

    Args:
        path: The file.
        tell: Called with the traceback of each kind of failure when it first occurs.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path = path
        self._tell = tell
        self._kinds: dict[str, _Kind] = {}
        self._others = 0
        self._earlier: bytes | None = None

    def add(self, round_: int, client: int | None, failure: Failure) -> None:
        """Log a failure if it is the first of its kind, else count it."""
        when = f"round {round_}" if round_ else "the final test"
        self.put(when if client is None else f"{when}, client {client}", failure)

    def put(self, where: str, failure: Failure) -> None:
        """Like `add`, with any description of who failed when."""
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
        """Rewrite the file, or leave it if it cannot be written."""
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
        # A link could point outside the run's folder.
        with open_file(path, follow=False) as file:
            file.seek(max(0, file.seek(0, 2) - KEPT_BYTES))
            return file.read(KEPT_BYTES)
    except OSError:
        return b""


@contextmanager
def error_log(folder: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """Write a run's ``errors.log`` during the block; yield its path.

    An unexpected error of fedmeta itself is logged too, with a note on it that names the file.
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
