"""Keeps decoded data in the cache folder, where processes map it into memory."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import to_json
from fedmeta.tasks.data.sources import cache_folder

_POOL, _ABOUT = "pool.npy", "about.json"


class Writer:
    """Writes an array row by row, in any order, and a few facts about it.

    Args:
        folder: Where to write them.
        shape: The array's shape.
        dtype: The array's dtype.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self._folder, self._shape, self._dtype = folder, shape, np.dtype(dtype)
        self._file = (folder / _POOL).open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        self._row = self._dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    def put(self, place: int, row: NDArray[Any]) -> None:
        """Write a row. A full disk is an error here; in a memory map it would end the process."""
        self._file.seek(self._start + place * self._row)
        self._file.write(np.ascontiguousarray(row, dtype=self._dtype).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def finish(self, about: dict[str, Any]) -> None:
        """Write the facts, and flush the array to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        (self._folder / _ABOUT).write_text(to_json(about), encoding="utf-8")


def decoded(
    key: str, shape: tuple[int, ...], dtype: Any, fill: Callable[[Writer], dict[str, Any]]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return an array ``[rows, ...]`` and facts about it, from the cache or else by `fill`.

    The array is mapped into memory, so only the rows in use take memory, once for all processes.

    Args:
        key: Name that covers everything the array depends on.
        shape: Its shape.
        dtype: Its dtype.
        fill: Writes every row, and returns the facts as plain values.

    Raises:
        DataError: If there is no room for it.
    """
    folder = cache_folder() / "decoded"
    place = folder / key
    if (found := _load(place, shape, dtype)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as made:
            with Writer(Path(made), shape, dtype) as writer:
                writer.finish(fill(writer))
            whole = Path(made) / key
            whole.mkdir()
            for name in (_POOL, _ABOUT):
                (Path(made) / name).replace(whole / name)
            _replace(whole, place)
    except OSError as error:
        raise DataError(
            f"cannot keep decoded data in {folder} ({error.strerror}): set FEDMETA_CACHE to a folder "
            f"with {int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize} bytes"
        ) from None
    found = _load(place, shape, dtype)
    if found is None:
        raise DataError(f"{place} is damaged: delete it")
    return found


def _replace(whole: Path, place: Path) -> None:
    try:
        whole.rename(place)
    except OSError:
        # Another process was faster, or a damaged folder is in the way.
        if place.is_dir():
            for name in (_POOL, _ABOUT):
                (whole / name).replace(place / name)
        else:
            raise


def _load(place: Path, shape: tuple[int, ...], dtype: Any) -> tuple[NDArray[Any], dict[str, Any]] | None:
    try:
        # Copy on write: torch wants writable memory, and the file stays as it is.
        pool = np.load(place / _POOL, mmap_mode="c", allow_pickle=False)
        about = json.loads((place / _ABOUT).read_text("utf-8"))
    except (OSError, ValueError, EOFError):
        return None
    fits = pool.shape == shape and pool.dtype == np.dtype(dtype) and isinstance(about, dict)
    return (pool, about) if fits else None
