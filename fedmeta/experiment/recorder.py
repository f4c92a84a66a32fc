"""Writes down each round as it ends: two logs, and now and then a checkpoint."""

import errno
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO

from fedmeta.config import Config
from fedmeta.errors import RunError
from fedmeta.experiment.checkpoint import Manifest
from fedmeta.experiment.folder import LOGS, RunFolder
from fedmeta.federation import ClientRecord, RoundRecord, Snapshot, counting_missing, tensors_digest
from fedmeta.files import finite, open_own, to_json

RoundListener = Callable[[RoundRecord], None]


@dataclass
class _Log:
    file: BinaryIO
    length: int

    def append(self, rows: list[dict[str, Any]]) -> None:
        data = b"".join(to_json(row).encode() + b"\n" for row in rows)
        self.file.write(data)
        self.length += len(data)


class Recorder:
    """Observer of a run that keeps its folder up to date.

    A round counts as finished once a checkpoint covers it. The checkpoint holds the length of the
    logs at that round, so what was written later is cut off when the run is resumed, and written
    again by the same rounds.

    Args:
        folder: The run's folder, locked by this process.
        config: The run's config; says when to checkpoint.
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
        self._columns = _Columns(signed=config.chain.enabled, paid=config.incentives.rule != "none")
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
        """Cut the logs back to where they were at a checkpoint; None: to nothing."""
        for name, log in self._logs.items():
            log.length = manifest.log_bytes.get(name, 0) if manifest else 0
            log.file.truncate(log.length)

    def on_round(self, record: RoundRecord, snapshot: Snapshot) -> None:
        """Append the round to the logs and checkpoint it if it is due.

        Raises:
            RunError: If the disk is full or cannot be written; finished rounds are kept.
        """
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        try:
            row = _metrics_row(record)
            if self.config.chain.enabled:
                row["model"] = tensors_digest(snapshot.state).hex()
            row["seconds"] = round(seconds, 6)
            self._logs["metrics.jsonl"].append([row])
            self._logs["clients.jsonl"].append([self._columns.row(one) for one in record.clients])
            lengths = {name: log.length for name, log in self._logs.items()}
            self._pending = (record, snapshot, lengths)
            if self._due(record):
                self.checkpoint()
        except OSError as error:
            raise self._disk_error(error, record.round) from None
        self.track(row)
        self.listener(record)

    def _due(self, record: RoundRecord) -> bool:
        # An evaluated round is checkpointed as well: it may be the best one.
        every = record.round % self.config.checkpoint_every == 0
        return every or record.evaluation is not None or record.round == self.config.rounds

    def checkpoint(self) -> None:
        """Checkpoint the last round that was logged, if it is not yet."""
        if self._pending is None:
            return
        record, snapshot, lengths = self._pending
        for log in self._logs.values():
            log.file.flush()
            os.fsync(log.file.fileno())
        self.folder.checkpoints.save(snapshot, lengths, score(record, self.config))
        self._pending = None
        self.covered(record.round)

    def close(self) -> None:
        """Close the logs; what could not be flushed is cut off at the next resume."""
        for log in self._logs.values():
            try:
                log.file.close()
            except OSError:
                # The disk is full: the run has been told already, and the lines were never finished.
                continue

    def _disk_error(self, error: OSError, round_: int) -> RunError:
        good = self.folder.checkpoints.rounds()
        kept = f"the checkpoint of round {good[0]} is safe" if good else "no round was finished"
        cause = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
        return RunError(
            f"round {round_}: cannot write to {self.folder.path}: {cause}; {kept}; "
            f"go on with `fedmeta resume {self.folder.path}`"
        )


def score(record: RoundRecord, config: Config) -> float | None:
    """Score a round to find the best checkpoint; higher is better, None is no score.

    Where there are validation clients they decide, at their last adaptation step; otherwise the
    training clients' loss after adaptation does. Test clients are never asked. What diverged or did not
    answer counts as the worst: in regression such a round has no score.
    """
    if record.evaluation:
        last = record.evaluation[-1]
        graded = last.accuracy is not None
        value = last.accuracy if graded else last.loss
        found = counting_missing(value, graded, last.clients, last.clients_asked)
        return found if found is None or graded else -found
    if config.evaluation.every or record.skipped or not math.isfinite(record.loss):
        return None
    return -record.loss


@dataclass(frozen=True)
class _Columns:
    """Which columns a client's line has beyond the plain ones: the same in all lines of a run."""

    signed: bool
    paid: bool

    def row(self, client: ClientRecord) -> dict[str, Any]:
        row = {
            "round": client.round,
            "client": client.client,
            "tasks": client.tasks,
            "norm": client.norm,
            "admitted": client.admitted,
            "reason": client.reason,
            "loss": client.loss,
            "accuracy": client.accuracy,
            "outcome": client.outcome,
        }
        if self.signed:
            proof = client.signed
            row["account"] = proof.account if proof else None
            row["update"] = proof.digest.hex() if proof else None
            row["signature"] = proof.signature.hex() if proof else None
        if self.paid:
            row["score"] = client.award.score if client.award else None
            row["reward"] = client.award.reward if client.award else None
        return row


def _row(record: object, *leave_out: str) -> dict[str, Any]:
    # A shallow asdict: a round of 1,000 clients would spend longer in a deep copy than in training.
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name not in leave_out}  # type: ignore[arg-type]


def _metrics_row(record: RoundRecord) -> dict[str, Any]:
    row = _row(record, "clients")
    if record.evaluation is not None:
        row["evaluation"] = [asdict(step) for step in record.evaluation]
    if record.test is not None:
        row["test"] = [asdict(step) for step in record.test]
    cleaned: dict[str, Any] = finite(row)
    return cleaned
