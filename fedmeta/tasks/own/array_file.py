"""Reads a client's examples from ``.npz`` and ``.safetensors`` files."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedmeta.errors import DataError
from fedmeta.files import open_file, reason

MOST_BYTES = 1 << 34
"""Most bytes of a file's arrays, unpacked."""
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, SafetensorError)


@dataclass(frozen=True)
class Targets:
    """The targets of clients' examples, one client after the other.

    Attributes:
        clients: The client of each example.
        values: ``[N]`` labels, or ``[N, outputs]`` numbers.
        shape: The shape of an example.
        dtype: The dtype of stored examples: uint8 stays, all others become float32.
    """

    clients: tuple[str, ...]
    values: NDArray[Any]
    shape: tuple[int, ...]
    dtype: Any


def read_array(file: Path, name: str) -> NDArray[Any]:
    """Return one array of a file.

    Raises:
        DataError: If the file is broken or too large, has no such array, or it does not hold numbers.
    """
    try:
        found: NDArray[Any]
        if file.suffix.lower() == ".npz":
            with open_file(file) as opened, np.load(opened, allow_pickle=False) as packed:
                if sum(member.file_size for member in packed.zip.infolist()) > MOST_BYTES:
                    raise DataError(f"{file} unpacks to more than {MOST_BYTES} bytes")
                found = packed[name]
        else:
            with safe_open(file, framework="np") as tensors:
                found = tensors.get_tensor(name)
    except _BROKEN as error:
        raise DataError(f"{file}: no array '{name}' can be read ({reason(error)})") from None
    if found.dtype.kind not in "biuf":
        raise DataError(f"{file}: '{name}' is {found.dtype}, not numbers")
    return found


def read_targets(by_client: dict[str, tuple[Path, ...]]) -> Targets:
    """Return the targets of all clients, in the order of their names.

    Raises:
        DataError: If files do not agree with each other; the message names one.
    """
    clients: list[str] = []
    values: list[NDArray[Any]] = []
    first: tuple[Path, NDArray[Any], NDArray[Any]] | None = None
    for client in sorted(by_client):
        for file in by_client[client]:
            x, y = read_array(file, "x"), read_array(file, "y")
            if not x.ndim or not y.ndim or len(x) != len(y) or x.ndim < 2 or not len(x):
                raise DataError(
                    f"{file}: x is {list(x.shape)} and y {list(y.shape)}, not of the same examples"
                )
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise DataError(f"{file}: x holds numbers that are not finite")
            y = y.reshape(len(y), -1) if y.dtype.kind == "f" else y
            if y.dtype.kind == "f" and not np.isfinite(y).all():
                raise DataError(f"{file}: y holds numbers that are not finite")
            if y.dtype.kind != "f" and y.ndim > 1:
                raise DataError(f"{file}: y is {list(y.shape)}: one label per example, not one-hot")
            first = first or (file, x[:1], y[:1])
            for name, one, other in (("x", x, first[1]), ("y", y, first[2])):
                kinds = (one.dtype.kind == "f") != (other.dtype.kind == "f") or (
                    (one.dtype == np.uint8) != (other.dtype == np.uint8) and name == "x"
                )
                if one.shape[1:] != other.shape[1:] or kinds:
                    raise DataError(
                        f"{file}: {name} is {one.dtype} {list(one.shape)}, but in {first[0]} it is "
                        f"{other.dtype} [N, {', '.join(map(str, other.shape[1:]))}]"
                    )
            clients += [client] * len(y)
            values.append(y.astype(np.float64 if y.dtype.kind == "f" else np.int64))
    assert first is not None
    dtype = np.uint8 if first[1].dtype == np.uint8 else np.float32
    return Targets(tuple(clients), np.concatenate(values), first[1].shape[1:], dtype)


def files_of(by_client: dict[str, tuple[Path, ...]]) -> Sequence[Path]:
    """Return all files, in the order of the clients' names."""
    return [file for client in sorted(by_client) for file in by_client[client]]
