"""Checks of a run's files against its journal, without the code that wrote them."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
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
from fedmeta.chain.signing import recover, update_digest
from fedmeta.errors import UsageError
from fedmeta.files import (
    MOST_INFO,
    MOST_TENSORS,
    from_later,
    parse_json,
    read_file,
    read_json,
    read_lines,
    reason,
)

Row = dict[str, Any]

_FORMAT = 2
"""Newest format of the logs; what an audit reads is the same in all formats up to this one."""
_LOG, _METRICS, _JOURNAL = "clients.jsonl", "metrics.jsonl", "the journal"
_CHECKPOINT = re.compile(r"round-(\d+)\.safetensors")


class RunFiles:
    """The files of one run; its logs must not have a later format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.info: Mapping[str, Any] = read_json(folder / "run.json", MOST_INFO)
        except (OSError, ValueError):
            raise UsageError(f"no run folder at '{folder}'") from None
        if later := from_later(self.info, "format", _FORMAT):
            raise UsageError(f"{folder}: its logs are {later}; audit them with that version")

    @property
    def run(self) -> bytes:
        """The run's id."""
        text = str(self.info.get("run_id", ""))
        return bytes.fromhex(text.removeprefix("0x"))

    @cached_property
    def rounds(self) -> dict[int, tuple[bytes, dict[int, Row]]]:
        """The rounds of ``clients.jsonl``: SHA-256 of its lines, and its admitted clients' rows."""
        found: dict[int, tuple[bytes, dict[int, Row]]] = {}
        for round_, group in groupby(self._rows(_LOG), key=lambda pair: pair[0]["round"]):
            pairs = list(group)
            evidence = hashlib.sha256(b"".join(line for _, line in pairs)).digest()
            admitted = (row for row, _ in pairs if row.get("admitted"))
            found[round_] = evidence, {int(row["client"]): row for row in admitted}
        return found

    @cached_property
    def models(self) -> dict[int, str]:
        """The model hash of each round of ``metrics.jsonl``, in hexadecimal."""
        return {row["round"]: str(row.get("model")) for row, _ in self._rows(_METRICS)}

    def _rows(self, log: str) -> Iterator[tuple[Row, bytes]]:
        """Yield the rows of a log, which have a round, and their lines; leave out an unfinished one."""
        try:
            for number, line in enumerate(read_lines(self.folder / log), 1):
                yield _parsed(line, f"{log}, line {number}"), line
        except (OSError, ValueError) as error:
            raise DisagreementError(f"{log}: {reason(error)}") from None

    def checkpoints(self) -> dict[int, Path]:
        """Return the tensor file of each kept checkpoint, by round."""
        folder = self.folder / "checkpoints"
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in names)
        return {int(match[1]): path for match, path in matches if match}


def _parsed(line: bytes, where: str) -> Row:
    try:
        row = parse_json(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("round"), int):
        raise DisagreementError(f"{where} is damaged")
    return row


def model_hash(path: Path) -> bytes:
    """Return the hash of the state in a checkpoint.

    SHA-256 over the state's tensors in sorted key order: key, NUL, NumPy's dtype string, NUL, shape as
    ``3,4``, NUL, the values in little-endian C order.
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


class RunChecks:
    """Checks of one run's files; each method returns a summary, or raises where values differ."""

    def __init__(self, files: RunFiles, journal: JournalView) -> None:
        self.files = files
        self.journal = journal
        self.frozen = journal.frozen

    def identity(self) -> str:
        """Check that the journal belongs to this run."""
        campaign = self.journal.founded
        require_equal("the run", "id", (self.files.run, campaign.run), ("run.json", _JOURNAL))
        return f"run 0x{campaign.run.hex()[:16]}, campaign 0x{campaign.campaign.hex()[:16]}"

    def rounds(self) -> str:
        """Check that the frozen rounds equal the logs, to the byte."""
        number = 0
        for frozen in self.journal.rounds():
            if frozen.round not in self.files.rounds:
                raise DisagreementError(f"round {frozen.round} is frozen and not in {_LOG}")
            evidence, rows = self.files.rounds[frozen.round]
            _same_contributions(rows, frozen)
            where = f"round {frozen.round}"
            _same(where, "hash of its lines", evidence, frozen.evidence)
            model = self.files.models.get(frozen.round)
            require_equal(where, "model", (model, frozen.model.hex()), (_METRICS, _JOURNAL))
            number += len(frozen.contributions)
        logged = max(self.files.rounds, default=0)
        if logged > self.frozen and self.files.info.get("status") == "finished":
            raise DisagreementError(
                f"rounds {self.frozen + 1} to {logged} are in {_LOG} and were never frozen"
            )
        return f"{counted(self.frozen, 'round')}, {counted(number, 'contribution')}, as frozen"

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
                raise DisagreementError(f"{path.name}: round {round_} is not in {_METRICS}")
            found = model_hash(path).hex()
            require_equal(f"round {round_}", "model", (found, stated), (path.name, _METRICS))
        rounds = ", ".join(str(round_) for round_ in sorted(paths))
        return f"{counted(len(paths), 'checkpoint')} (rounds {rounds})" if paths else "none is kept"


def _signer(digest: bytes, signature: bytes) -> str | None:
    try:
        return recover(digest, signature)
    except ValueError:
        return None


def _same_contributions(rows: Mapping[int, Row], frozen: FrozenRound) -> None:
    contributions = {c.client: c for c in frozen.contributions}
    for client in sorted(rows.keys() | contributions.keys()):
        where = f"round {frozen.round}, client {client}"
        if client not in rows:
            raise DisagreementError(f"{where} is in {_JOURNAL} and was not admitted in {_LOG}")
        if client not in contributions:
            raise DisagreementError(f"{where} was admitted in {_LOG} and is not in {_JOURNAL}")
        _same_row(where, rows[client], contributions[client])


def _same_row(where: str, row: Row, frozen: Contribution) -> None:
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
