"""Reads tables from CSV and Parquet files, as cells of text with their line numbers."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.options import nearest
from fedmeta.tasks.data.text_files import decode_file, visible

MOST_BYTES = 1 << 27
"""Most bytes of a table."""
DELIMITERS = (",", ";", "\t", "|")
Decimal = Literal["auto", ".", ","]
EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Texts of an empty cell, in lower case."""

_POINT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        path: Its file.
        columns: The cells of each column, by its visible name.
        lines: The line of the file that each row begins in.
        delimiter: The delimiter of cells; empty in a Parquet file.
        decimal: The decimal sign of its numbers.
    """

    path: Path
    columns: dict[str, tuple[str, ...]]
    lines: tuple[int, ...]
    delimiter: str
    decimal: str

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, key: str, name: str) -> tuple[str, ...]:
        """Return a column's cells; `DataError` that names `key` if there is none of this name."""
        if name not in self.columns:
            raise DataError(f"{key}: {self.path} has no column '{name}': {nearest(name, self.columns)}")
        return self.columns[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers, empty cells as NaN.

        Raises:
            DataError: If a cell is not a number; the message names its line.
        """
        values, bad = self.parsed(name)
        if bad is not None:
            raise DataError(
                f"{self.path}, line {self.lines[bad]}: {name} is {self.columns[name][bad]!r}, not a "
                f"number with the decimal sign '{self.decimal}'"
            )
        return values

    def parsed(self, name: str) -> tuple[NDArray[np.float64], int | None]:
        """Return a column as numbers, and the first row that is neither a number nor empty."""
        cells = self.columns[name]
        values = np.full(len(cells), np.nan)
        form = _COMMA if self.decimal == "," else _POINT
        for row, cell in enumerate(cells):
            if form.fullmatch(cell):
                values[row] = float(cell.replace(",", "."))
                if not np.isfinite(values[row]):
                    return values, row
            elif cell.lower() not in EMPTY:
                return values, row
        return values, None

    def is_text(self, name: str) -> bool:
        """Return whether a column holds anything but numbers."""
        return self.parsed(name)[1] is not None


def read_table(path: Path, delimiter: str = "auto", decimal: Decimal = "auto") -> Table:
    """Read a table with a line of names, and a row for each example.

    Text may have any encoding that `read_text` reads. Blank lines are skipped.

    Args:
        path: A CSV file, or a Parquet file by its name.
        delimiter: The delimiter of cells; ``auto``: detected from the first line.
        decimal: The decimal sign; ``auto``: a comma if numbers have commas and none has a point.

    Raises:
        DataError: If it cannot be read, or a row's number of cells differs from the first line's; the
            message names the line.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    text, _, _ = decode_file(path, MOST_BYTES)
    if not text.strip():
        raise DataError(f"{path} is empty")
    sign = _delimiter(path, text) if delimiter == "auto" else delimiter
    names, rows, lines = _rows(path, text, sign)
    if not rows:
        raise DataError(f"{path} has no rows below its line of names")
    cells = tuple(zip(*rows, strict=True))
    columns = dict(zip(_named(path, names, cells), cells, strict=True))
    columns = {name: column for name, column in columns.items() if name}
    found = _decimal(path, columns, lines, sign) if decimal == "auto" else decimal
    return Table(path, columns, tuple(lines), sign, found)


def _delimiter(path: Path, text: str) -> str:
    first = next(line for line in text.splitlines() if line.strip())
    counts = {sign: len(next(csv.reader([first], delimiter=sign), [])) for sign in DELIMITERS}
    best = max(DELIMITERS, key=lambda sign: counts[sign])
    if counts[best] < 2:
        raise DataError(
            f"{path}: its first line {first[:40]!r} is not names of two or more columns with , ; | or a "
            "tab between them"
        )
    return best


def _rows(path: Path, text: str, sign: str) -> tuple[list[str], list[list[str]], list[int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    begins = 1
    try:
        for row in reader:
            line, begins = begins, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = row
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{path}, line {line}: {len(row)} cells, but {len(names)} columns have names"
                )
            rows.append([cell.strip() for cell in row])
            lines.append(line)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    return names, rows, lines


def _named(path: Path, names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the visible names of columns; empty for a column with neither name nor cells."""
    shown = [visible(name) for name in names]
    for place, name in enumerate(shown):
        if not name and any(cells[place]):
            raise DataError(f"{path}: column {place + 1} has no name in the first line")
    twice = [name for name, count in Counter(shown).items() if name and count > 1]
    if twice:
        raise DataError(f"{path} has two columns called '{twice[0]}'")
    return shown


def _decimal(
    path: Path, columns: dict[str, tuple[str, ...]], lines: Sequence[int], sign: str
) -> Literal[".", ","]:
    """Return the decimal sign that the numbers use."""
    points: int | None = None
    commas: int | None = None
    for cells in columns.values():
        for row, cell in enumerate(cells):
            if commas is None and "," in cell and _COMMA.fullmatch(cell):
                commas = row
            elif points is None and "." in cell and _POINT.fullmatch(cell):
                points = row
    if commas is None:
        return "."
    if points is not None:
        raise DataError(
            f"{path}: line {lines[commas]} has a decimal comma and line {lines[points]} a decimal "
            "point: set data.decimal"
        )
    if sign == ",":
        raise DataError(
            f"{path}, line {lines[commas]}: a number with a comma between cells with commas: set "
            "data.decimal to ',' if it is a decimal comma; write thousands without a separator"
        )
    return ","


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'fedmeta[parquet]'") from None
    try:
        found = parquet.read_table(path).to_pydict()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})"
        ) from None
    columns = {visible(name): tuple(map(_cell, cells)) for name, cells in found.items()}
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise DataError(f"{path} has no rows")
    return Table(path, columns, tuple(range(1, rows + 1)), "", ".")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return repr(value) if isinstance(value, float) else str(value).strip()
