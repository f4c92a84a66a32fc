"""Reads the voice measures and clinical scores of the Parkinson's telemonitoring study."""

import hashlib
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.files import one_line, open_file

MOST_BYTES = 1 << 23
"""Bytes of the file; the official one has 0.9 million."""

TARGETS = ("motor_UPDRS", "total_UPDRS")
VOICE = (
    *("Jitter(%)", "Jitter(Abs)", "Jitter:RAP", "Jitter:PPQ5", "Jitter:DDP"),
    *("Shimmer", "Shimmer(dB)", "Shimmer:APQ3", "Shimmer:APQ5", "Shimmer:APQ11", "Shimmer:DDA"),
    *("NHR", "HNR", "RPDE", "DFA", "PPE"),
)
LOGGED = VOICE[:12]
"""Measures whose logarithm is used: of jitter, shimmer and noise, which vary by factors of ten."""
COLUMNS = ("subject#", "age", "sex", "test_time", *TARGETS, *VOICE)
_LOGGED = tuple(COLUMNS.index(name) for name in LOGGED)
# Copies that went through a spreadsheet have three digits of this column, the official file has four.
_ROUNDED, _DIGITS = "Jitter(Abs)", Context(prec=3, rounding=ROUND_HALF_UP)


def read_measurements(path: Path, hint: str) -> dict[str, list[float]]:
    """Read the file, with commas as the official one or with tabs: each of `COLUMNS`, by name.

    Args:
        path: The file.
        hint: What to do about a corrupt one.

    Raises:
        DataError: If it is corrupt; the message names the line.
    """
    rows = _rows(path, hint)
    return {name: [float(row[place]) for row in rows] for place, name in enumerate(COLUMNS)}


def sum_of_measurements(path: Path) -> str:
    """Return the SHA-256 of the numbers, however they are written.

    Raises:
        DataError: If the file is corrupt.
    """
    digest = hashlib.sha256()
    for row in _rows(path, "it cannot be used"):
        digest.update((" ".join(f"{cell.normalize():f}" for cell in row) + "\n").encode())
    return digest.hexdigest()


def _rows(path: Path, hint: str) -> tuple[tuple[Decimal, ...], ...]:
    try:
        with open_file(path, MOST_BYTES) as file:
            return _parsed(file.read())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is corrupt or truncated ({one_line(error, 300)}): {hint}") from None


@lru_cache(maxsize=1)
def _parsed(data: bytes) -> tuple[tuple[Decimal, ...], ...]:
    lines = data.decode("ascii").splitlines()
    sign = "\t" if lines and "\t" in lines[0] else ","
    if not lines or tuple(lines[0].split(sign)) != COLUMNS:
        raise ValueError(f"line 1 does not name the {len(COLUMNS)} columns from subject# to PPE")
    rows = tuple(_row(line.split(sign), number) for number, line in enumerate(lines[1:], 2) if line)
    if not rows:
        raise ValueError("it has no recordings")
    return rows


def _row(cells: list[str], number: int) -> tuple[Decimal, ...]:
    try:
        row = [Decimal(cell) for cell in cells]
    except InvalidOperation:
        raise ValueError(f"line {number} has something else than numbers") from None
    if len(row) != len(COLUMNS) or not all(cell.is_finite() for cell in row):
        raise ValueError(f"line {number} does not have {len(COLUMNS)} numbers")
    if min(row[place] for place in _LOGGED) <= 0:
        raise ValueError(f"line {number} has a jitter, shimmer or NHR that is not positive")
    place = COLUMNS.index(_ROUNDED)
    row[place] = _DIGITS.plus(row[place])
    return tuple(row)
