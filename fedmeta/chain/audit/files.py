"""Checks of a run's files against its journal, without the code that wrote them."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Contribution, FrozenRound
from fedmeta.chain.signing import recover
from fedmeta.chain.typed_data import update_digest
from fedmeta.errors import UsageError
from fedmeta.files import (
    MOST_INFO,
    MOST_TENSORS,
    one_line,
    parse_json,
    read_file,
    read_json,
    read_lines,
    reason,
)

_FORMAT = 2
"""Newest format of the logs; what an audit reads is the same in all formats up to this one."""
_LOG, _JOURNAL = "clients.jsonl", "the journal"
_CHECKPOINT = re.compile(r"round-(\d+)\.safetensors")


@dataclass(frozen=True)
class LoggedRound:
    """One round's lines of ``clients.jsonl``.

    Attributes:
        round: The round.
        evidence: SHA-256 of the lines' bytes.
        rows: The lines' values, in the file's order.
    """

    round: int
    evidence: bytes
    rows: tuple[Mapping[str, Any], ...]

    @property
    def admitted(self) -> tuple[Mapping[str, Any], ...]:
        """The rows of admitted clients."""
        return tuple(row for row in self.rows if row.get("admitted"))


class RunFiles:
    """The files of one run.

    Args:
        folder: The run's folder.

    Raises:
        UsageError: If it is not a run folder, or its logs have a later format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.info: Mapping[str, Any] = read_json(folder / "run.json", MOST_INFO)
        except (OSError, ValueError):
            raise UsageError(f"no run folder at '{folder}'") from None
        found, versions = (self.info.get(key) for key in ("format", "versions"))
        if type(found) is int and found > _FORMAT:
            wrote = one_line(versions.get("fedmeta") if isinstance(versions, dict) else "?", 40)
            raise UsageError(
                f"{folder}: its logs are of format {found}, written by fedmeta {wrote}: audit them with "
                "that version"
            )

    @property
    def run(self) -> bytes:
        """The run's id."""
        text = str(self.info.get("run_id", ""))
        return bytes.fromhex(text.removeprefix("0x"))

    @cached_property
    def rounds(self) -> dict[int, LoggedRound]:
        """The rounds of ``clients.jsonl``.

        Raises:
            DisagreementError: If a line is damaged.
        """
        lines = _lines(self.folder / "clients.jsonl")
        rows = ((_parsed(self.folder / "clients.jsonl", n, line), line) for n, line in lines)
        found: dict[int, LoggedRound] = {}
        for round_, group in groupby(rows, key=lambda pair: pair[0].get("round")):
            pairs = list(group)
            evidence = hashlib.sha256(b"".join(line for _, line in pairs)).digest()
            found[int(str(round_))] = LoggedRound(int(str(round_)), evidence, tuple(r for r, _ in pairs))
        return found

    @cached_property
    def models(self) -> dict[int, str]:
        """The model hash of each round of ``metrics.jsonl``, in hexadecimal."""
        path = self.folder / "metrics.jsonl"
        rows = [_parsed(path, number, line) for number, line in _lines(path)]
        return {int(row["round"]): str(row.get("model")) for row in rows}

    def checkpoints(self) -> dict[int, Path]:
        """Return the tensor file of each kept checkpoint, by round."""
        folder = self.folder / "checkpoints"
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in names)
        return {int(match[1]): path for match, path in matches if match}


def model_hash(path: Path) -> bytes:
    """Return the hash of the state in a checkpoint.

    SHA-256 over the state's tensors in sorted key order: key, NUL, NumPy's dtype string, NUL, shape as
    ``3,4``, NUL, the values in little-endian C order.

    Raises:
        DisagreementError: If the file cannot be read.
    """
    try:
        tensors = load(read_file(path, MOST_TENSORS))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise DisagreementError(f"{path.name} cannot be read: {reason(error)}") from None
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith("state."):
            values = np.ascontiguousarray(tensors[name])
            sizes = ",".join(str(size) for size in tensors[name].shape)
            digest.update(f"{name.removeprefix('state.')}\0{values.dtype.str}\0{sizes}\0".encode())
            digest.update(values.tobytes())
    return digest.digest()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the complete lines of a log with their numbers; a truncated last line is skipped."""
    try:
        yield from enumerate(read_lines(path), 1)
    except (OSError, ValueError) as error:
        raise DisagreementError(f"{path.name}: {reason(error)}") from None


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("round"), int):
        raise DisagreementError(f"{path.name}, line {number} is damaged")
    return row


class RunChecks:
    """Checks of one run's files; each method returns a summary, or raises where values differ.

    Args:
        files: The run's files.
        journal: Its journal.
    """

    def __init__(self, files: RunFiles, journal: JournalView) -> None:
        self.files = files
        self.journal = journal
        self.frozen = journal.frozen

    def identity(self) -> str:
        """Check that the journal belongs to this run."""
        campaign = self.journal.campaign
        if campaign is None:
            raise DisagreementError("the journal is empty")
        require_equal("the run", "id", (self.files.run, campaign.run), ("run.json", _JOURNAL))
        return f"run 0x{campaign.run.hex()[:16]}, campaign 0x{campaign.campaign.hex()[:16]}"

    def rounds(self) -> str:
        """Check that the frozen rounds equal the logs, to the byte."""
        number = 0
        for frozen in self.journal.rounds():
            logged = self.files.rounds.get(frozen.round)
            if logged is None:
                raise DisagreementError(f"round {frozen.round} is frozen and not in {_LOG}")
            _same_contributions(logged, frozen)
            where = f"round {frozen.round}"
            _same(where, "hash of its lines", logged.evidence, frozen.evidence)
            model = self.files.models.get(frozen.round)
            require_equal(where, "model", (model, frozen.model.hex()), ("metrics.jsonl", _JOURNAL))
            number += len(frozen.contributions)
        self._all_frozen()
        return f"{counted(self.frozen, 'round')}, {counted(number, 'contribution')}, as frozen"

    def _all_frozen(self) -> None:
        logged = max(self.files.rounds, default=0)
        if logged > self.frozen and self.files.info.get("status") == "finished":
            raise DisagreementError(
                f"rounds {self.frozen + 1} to {logged} are in {_LOG} and were never frozen"
            )

    def signatures(self) -> str:
        """Check that the paid account signed each update, and that each client has one account."""
        number, accounts = 0, dict[int, str]()
        for frozen in self.journal.rounds():
            for c in frozen.contributions:
                where = f"round {frozen.round}, client {c.client}"
                known = accounts.setdefault(c.client, c.account)
                require_equal(where, "account", (c.account, known), (_JOURNAL, "earlier rounds"))
                digest = update_digest(self.files.run, frozen.round, c.tasks, c.update)
                signer = _signer(digest, c.signature)
                require_equal(where, "signer", (signer, c.account), ("the signature", "the account"))
                number += 1
        return f"{counted(number, 'update signature')} of {counted(len(accounts), 'account')}"

    def checkpoints(self) -> str:
        """Check that each kept checkpoint has its round's model hash."""
        paths = self.files.checkpoints()
        for round_, path in paths.items():
            stated = self.files.models.get(round_)
            if stated is None:
                raise DisagreementError(f"{path.name}: round {round_} is not in metrics.jsonl")
            found = model_hash(path).hex()
            require_equal(f"round {round_}", "model", (found, stated), (path.name, "metrics.jsonl"))
        rounds = ", ".join(str(round_) for round_ in sorted(paths))
        return f"{counted(len(paths), 'checkpoint')} (rounds {rounds})" if paths else "none is kept"


def _signer(digest: bytes, signature: bytes) -> str | None:
    try:
        return recover(digest, signature)
    except ValueError:
        return None


def _same_contributions(logged: LoggedRound, frozen: FrozenRound) -> None:
    rows = {int(row["client"]): row for row in logged.admitted}
    contributions = {c.client: c for c in frozen.contributions}
    for client in sorted(rows.keys() | contributions.keys()):
        where = f"round {frozen.round}, client {client}"
        if client not in rows:
            raise DisagreementError(f"{where} is in {_JOURNAL} and was not admitted in {_LOG}")
        if client not in contributions:
            raise DisagreementError(f"{where} was admitted in {_LOG} and is not in {_JOURNAL}")
        _same_row(where, rows[client], contributions[client])


def _same_row(where: str, row: Mapping[str, Any], frozen: Contribution) -> None:
    _same(where, "account", str(row.get("account")).lower(), frozen.account.lower())
    _same(where, "tasks", row.get("tasks"), frozen.tasks)
    _same(where, "update", row.get("update"), frozen.update.hex())
    _same(where, "signature", row.get("signature"), frozen.signature.hex())
    _same(where, "score", _number(row.get("score")), _number(frozen.score))
    _same(where, "reward", row.get("reward") or 0, frozen.reward)


def _same(where: str, name: str, logged: object, frozen: object) -> None:
    require_equal(where, name, (logged, frozen), (_LOG, _JOURNAL))


def _number(value: object) -> str | None:
    return None if value is None else json.dumps(float(str(value)))
