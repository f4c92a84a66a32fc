"""Writes charts and tables as CSV files."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import cast

from fedmeta.files import printable, write_atomically
from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.page import Keys, Part
from fedmeta.report.tables import Bytes, Cell, Interval, Link, LongRows, Table

Row = Sequence[str | int | float | None]

# Characters that begin a formula in a spreadsheet, full-width ones included.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_PLAIN = {int, float, str, type(None)}
_NUMBER = re.compile(r"[+-]?(?:[0-9][0-9,]*\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?")


def write_sheets(folder: Path, parts: Sequence[Part]) -> list[Path]:
    """Write ``<part>-<chart or table>.csv`` for each chart and table; UTF-8, a comma, a head line.

    Args:
        folder: Made if missing; files of the same name are replaced.
        parts: Of the report.

    Returns:
        What was written.

    Raises:
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, keys = [], Keys()
    for part in parts:
        for one in part.sheets():
            path = folder / f"{keys.new(f'{part.key}-{one.key}')}.csv"
            text = io.StringIO()
            csv.writer(text).writerows(_rows(one))
            write_atomically(path, text.getvalue().encode(errors="backslashreplace"))
            written.append(path)
    return written


def _harmless(row: Row) -> Row:
    """Return a row that a spreadsheet takes for text: no name is run as a formula."""
    return [_text(cell) if isinstance(cell, str) else cell for cell in row]


@lru_cache(maxsize=1000)
def _text(cell: str) -> str:
    cell = printable(cell)
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _rows(one: Chart | Heatmap | Table) -> Iterable[Row]:
    if isinstance(one, Chart):
        return map(_harmless, _chart(one))
    if isinstance(one, Heatmap):
        return map(_harmless, _heatmap(one))
    if isinstance(one.rows, LongRows) and one.rows.numbers:
        return chain([_harmless(one.columns)], cast(Iterable[Row], one.rows))
    return map(_harmless, _table(one))


def _chart(chart: Chart) -> Iterator[Row]:
    """Yield a row for each point of each series."""
    yield [
        "series",
        chart.y if chart.flip else chart.x,
        chart.x if chart.flip else chart.y,
        "low",
        "high",
    ]
    for series in chart.series:
        nothing = [None] * len(series.y)
        ends = (series.low or nothing, series.high or nothing)
        for x, y, low, high in zip(series.x, series.y, *ends, strict=True):
            yield [series.name, _position(chart, x), y, low, high]


def _position(chart: Chart, x: float) -> str | float:
    return chart.labels[round(x)] if chart.labels else x


def _heatmap(chart: Heatmap) -> Iterator[Row]:
    yield [chart.y, chart.x, chart.unit]
    for name, values in zip(chart.rows, chart.values, strict=True):
        for column, value in zip(chart.columns, values, strict=True):
            yield [name, column, value]


def _table(table: Table) -> Iterator[Row]:
    """Yield a table's rows; an interval takes two columns, its mean and half its width."""
    if isinstance(table.rows, LongRows):
        yield table.columns
        yield from cast(Iterable[Row], table.rows)
        return
    kinds = [set(map(type, map(itemgetter(i), table.rows))) for i in range(len(table.columns))]
    wide = [Interval in found for found in kinds]
    head: list[str] = []
    for name, two in zip(table.columns, wide, strict=True):
        head += [name, f"{name} ci95"] if two else [name]
    yield head
    if all(found <= _PLAIN for found in kinds):
        # With a million rows, the time per cell matters.
        yield from cast(Sequence[Row], table.rows)
        return
    for row in table.rows:
        cells: list[str | int | float | None] = []
        for cell, two in zip(row, wide, strict=True):
            cells += _plain(cell) if two else _plain(cell)[:1]
        yield cells


def _plain(cell: Cell) -> list[str | int | float | None]:
    if isinstance(cell, Interval):
        return [cell.mean, cell.half]
    if isinstance(cell, Bytes):
        return [cell.size, None]
    return [cell.text if isinstance(cell, Link) else cell, None]
