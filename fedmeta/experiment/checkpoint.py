"""Crash-safe checkpoints that detect damage.

A checkpoint is two files: ``round-000120.safetensors`` with the tensors and ``round-000120.json``, the
manifest, with the SHA-256 of the first. Each is written to a temporary file, flushed to disk and
renamed; the manifest is written last, so a checkpoint without one is incomplete. A model's constants,
such as frozen layers, are stored once for all checkpoints, in ``constants.safetensors``. Clients' memory
is in ``clients.sqlite``, to which a checkpoint commits the changes since the last.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedmeta.federation import Snapshot
from fedmeta.federation.client_states import ClientStates
from fedmeta.files import (
    MOST_JSON,
    MOST_TENSORS,
    one_line,
    parse_json,
    read_file,
    reason,
    to_json,
    write_atomically,
)
from fedmeta.learning import Tensors

KEPT_GENERATIONS = 2
CONSTANTS = "constants.safetensors"
CLIENTS = "clients.sqlite"
_NAME = re.compile(r"round-([0-9]{6,18})\.(?:json|safetensors)")
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a checkpoint.

    Attributes:
        round: Finished rounds.
        sha256: SHA-256 of the tensors' file.
        log_bytes: Length of each log file, in bytes, at that round.
        best_round: The checkpoint with the best score so far, which is kept.
        best_score: Its score; higher is better.
        constants_sha256: SHA-256 of the file of the model's constants; None if it has none.
        client_states: Digest of clients' memory; None if they have none.
    """

    round: Count
    sha256: str
    log_bytes: dict[str, Count]
    best_round: Count | None = None
    best_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    constants_sha256: str | None = None
    client_states: str | None = None


_MANIFEST = TypeAdapter(Manifest)


class DamagedCheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and the damage."""


class CheckpointStore:
    """The checkpoints of one run: the latest two and the best.

    Args:
        folder: The run's ``checkpoints`` folder; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.constants: Tensors = {}
        self.constants_sha256: str | None = None
        self._constants_data = b""
        self.client_states: ClientStates | None = None

    def keep_constants(self, constants: Tensors) -> None:
        """Store the model's constants with the checkpoints of this run."""
        self.constants = constants
        if constants:
            self._constants_data = save({key: v.detach().contiguous() for key, v in constants.items()})
            self.constants_sha256 = hashlib.sha256(self._constants_data).hexdigest()

    def save(self, snapshot: Snapshot, log_bytes: dict[str, int], score: float | None) -> Manifest:
        """Write a checkpoint, then remove those no longer needed.

        Args:
            snapshot: The run after some round.
            log_bytes: Length of each log at that round.
            score: Score of the state, higher is better; None if unknown.

        Raises:
            OSError: If it could not be written; earlier checkpoints are not affected.
        """
        tensors = {f"state.{key}": value for key, value in snapshot.state.items()}
        tensors |= {f"optimizer.{key}": value for key, value in snapshot.optimizer.items()}
        data = save({key: value.detach().contiguous() for key, value in tensors.items()})
        if self.client_states:
            self.client_states.commit()
        best_round, best_score = self._best_with(snapshot.round, score)
        manifest = Manifest(
            snapshot.round,
            hashlib.sha256(data).hexdigest(),
            dict(log_bytes),
            best_round,
            best_score,
            self.constants_sha256,
            self.client_states.seal if self.client_states else None,
        )
        self._write_constants()
        write_atomically(self._tensors(snapshot.round), data)
        text = to_json(asdict(manifest), indent=1, sort_keys=True)
        write_atomically(self._manifest(snapshot.round), text.encode())
        self._prune(manifest)
        return manifest

    def rounds(self) -> list[int]:
        """Return the rounds that have any file of a checkpoint, newest first."""
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        named = (_NAME.fullmatch(path.name) for path in files)
        return sorted({int(match[1]) for match in named if match}, reverse=True)

    def load(self, round_: int) -> tuple[Snapshot, Manifest]:
        """Read and verify one checkpoint.

        Raises:
            DamagedCheckpointError: If a file of it is missing, truncated or altered.
        """
        manifest = self._read_manifest(round_)
        tensors, constants = _read(self._tensors(round_), manifest.sha256), self.constants
        if manifest.constants_sha256 not in (None, self.constants_sha256):
            constants = _read(self.folder / CONSTANTS, manifest.constants_sha256)
        state, optimizer = _under("state.", tensors), _under("optimizer.", tensors)
        return Snapshot(round_, state, optimizer, constants), manifest

    def newest_first(self) -> Iterator[tuple[Snapshot, Manifest] | DamagedCheckpointError]:
        """Yield each checkpoint, latest first, or the reason why it cannot be used."""
        for round_ in self.rounds():
            try:
                yield self.load(round_)
            except DamagedCheckpointError as error:
                yield error

    def drop_after(self, round_: int) -> None:
        """Remove later checkpoints, damaged or incomplete ones that a resumed run writes again."""
        for later in self.rounds():
            if later > round_:
                self._remove(later)

    def _write_constants(self) -> None:
        path = self.folder / CONSTANTS
        if self.constants_sha256 and not path.exists():
            write_atomically(path, self._constants_data)

    def _best_with(self, round_: int, score: float | None) -> tuple[int | None, float | None]:
        earlier = [r for r in self.rounds() if r < round_]
        best_round, best_score = None, None
        if earlier:
            try:
                last = self._read_manifest(earlier[0])
                best_round, best_score = last.best_round, last.best_score
            except DamagedCheckpointError:
                pass
        if score is not None and (best_score is None or score > best_score):
            return round_, score
        return best_round, best_score

    def _prune(self, manifest: Manifest) -> None:
        rounds = self.rounds()
        complete = [round_ for round_ in rounds if self._manifest(round_).exists()]
        keep = {*complete[:KEPT_GENERATIONS], manifest.best_round}
        for round_ in rounds:
            if round_ not in keep:
                self._remove(round_)

    def _remove(self, round_: int) -> None:
        self._manifest(round_).unlink(missing_ok=True)
        self._tensors(round_).unlink(missing_ok=True)

    def _read_manifest(self, round_: int) -> Manifest:
        path = self._manifest(round_)
        try:
            data = read_file(path, MOST_JSON)
            values = parse_json(data)
            if not isinstance(values, dict) or values.keys() - {one.name for one in fields(Manifest)}:
                raise ValueError
            manifest = _MANIFEST.validate_json(data, strict=True)
        except OSError as error:
            raise DamagedCheckpointError(f"{path}: {reason(error)}") from None
        except ValidationError as error:
            where = one_line(".".join(map(str, error.errors()[0]["loc"])), 100)
            raise DamagedCheckpointError(f"{path}: not a checkpoint manifest: '{where}'") from None
        except ValueError:
            raise DamagedCheckpointError(f"{path}: not a checkpoint manifest") from None
        if manifest.round != round_:
            raise DamagedCheckpointError(f"{path}: is the manifest of round {manifest.round}")
        return manifest

    def _tensors(self, round_: int) -> Path:
        return self.folder / f"round-{round_:06d}.safetensors"

    def _manifest(self, round_: int) -> Path:
        return self.folder / f"round-{round_:06d}.json"


def misfit(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str | None:
    """Return how a checkpoint's tensors differ from the expected format; None if they fit.

    A valid hash shows that a file is complete, but not who wrote it.

    Args:
        found: The checkpoint's tensors.
        wanted: Tensors of the expected names, shapes and dtypes, with any values.
    """
    for name in sorted(wanted.keys() ^ found.keys()):
        problem = "is missing" if name in wanted else "is not a part of the model"
        return f"'{one_line(name, 100)}' {problem}"
    for name, value in found.items():
        like = wanted[name]
        if value.shape != like.shape:
            return f"'{name}' has shape {list(value.shape)[:8]}, not {list(like.shape)}"
        if value.dtype != like.dtype:
            return f"'{name}' is of {value.dtype}, not {like.dtype}".replace("torch.", "")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"'{name}' holds numbers that are not finite"
    return None


def _read(path: Path, sha256: str | None) -> Tensors:
    """Read a file of tensors, and check its SHA-256."""
    try:
        data = read_file(path, MOST_TENSORS)
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: {reason(error)}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedCheckpointError(f"{path}: its SHA-256 differs from that in its manifest")
    try:
        return load(data)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # For example, a dtype that torch lacks.
        raise DamagedCheckpointError(f"{path}: {reason(error)}") from None


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
