"""A run's files as an auditor reads them: without the library that wrote them."""

import hashlib
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

from fedmeta.chain.audit.findings import DisagreementError
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
"""Of the logs; what an audit looks at is the same in all formats up to this one."""
_CHECKPOINT = re.compile(r"round-(\d+)\.safetensors")


@dataclass(frozen=True)
class LoggedRound:
    """One round's lines of ``clients.jsonl``.

    Attributes:
        round: The round.
        evidence: SHA-256 of the lines as they stand.
        rows: The lines' values, in the file's order.
    """

    round: int
    evidence: bytes
    rows: tuple[Mapping[str, Any], ...]

    @property
    def admitted(self) -> tuple[Mapping[str, Any], ...]:
        """The rows of clients that were admitted."""
        return tuple(row for row in self.rows if row.get("admitted"))


class RunFiles:
    """The files of one run.

    Args:
        folder: The run's folder.

    Raises:
        UsageError: If it is no run's folder, or its logs are of a later format.
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
        """The model hash of each round of ``metrics.jsonl``, hexadecimal."""
        path = self.folder / "metrics.jsonl"
        rows = [_parsed(path, number, line) for number, line in _lines(path)]
        return {int(row["round"]): str(row.get("model")) for row in rows}

    def checkpoints(self) -> dict[int, Path]:
        """The tensors' file of each kept checkpoint, by round."""
        folder = self.folder / "checkpoints"
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in names)
        return {int(match[1]): path for match, path in matches if match}


def model_hash(path: Path) -> bytes:
    """Return the hash of the state in a checkpoint.

    SHA-256 over the state's tensors in sorted key order: key, NUL, dtype as NumPy writes it, NUL, shape
    as ``3,4``, NUL, the values, little-endian and C-ordered.

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
    """Yield the whole lines of a log, numbered; one that was cut off at the end is not finished."""
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
