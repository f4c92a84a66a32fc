"""Tables as plain data, and the formatting of their values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from fedmeta.report.charts import Chart, Series

ROWS_OF_A_CHART = 15
_LEAST = 0.0005


class Interval(NamedTuple):
    """A mean and half of its 95% interval; None: not known."""

    mean: float | None
    half: float | None


class Link(NamedTuple):
    """A link."""

    text: str
    href: str


class Bytes(NamedTuple):
    """A number of bytes, shown with a unit that keeps it short; None: not known."""

    size: float | None


Cell = str | int | float | None | Interval | Link | Bytes


class LongRows(Sequence[Sequence[Cell]]):
    """Rows of a long table, made when they are needed.

    Args:
        length: How many.
        make: Returns those from a first one up to an end, which are plain values.
        numbers: Whether all of these are numbers.
    """

    def __init__(
        self,
        length: int,
        make: Callable[[int, int], Sequence[Sequence[Cell]]],
        numbers: bool = False,
    ) -> None:
        self._length = length
        self._make = make
        self.numbers = numbers

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Sequence[Cell]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sequence[Cell]]: ...
    def __getitem__(self, at: int | slice) -> Sequence[Cell] | Sequence[Sequence[Cell]]:
        where = range(self._length)[at]
        if isinstance(where, int):
            return self._make(where, where + 1)[0]
        return self._make(where.start, max(where.start, where.stop))[:: where.step]

    def __iter__(self) -> Iterator[Sequence[Cell]]:
        for first in range(0, self._length, _MADE_AT_ONCE):
            yield from self._make(first, min(first + _MADE_AT_ONCE, self._length))


_MADE_AT_ONCE = 10_000


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        key: Names its CSV file.
        title: What it shows.
        columns: Names, with units.
        rows: A value for each column.
        note: How to read it.
        shown: Rows that the page shows at once; the others are folded away.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    shown: int = 30


def shown(cell: Cell) -> str:
    """Return a value as text: integers in full, others with about three digits."""
    if isinstance(cell, Interval):
        return _with_half(cell)
    if isinstance(cell, Bytes):
        return _readable(cell.size)
    if isinstance(cell, Link):
        return cell.text
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or _is_count(cell):
        return f"{int(cell):,}"
    if 0.001 <= abs(cell) < 100:
        return f"{cell:.3f}"
    return f"{cell:,.1f}" if 100 <= abs(cell) < 1e9 else f"{cell:.3g}"


def _with_half(cell: Interval) -> str:
    """Return a mean and half its interval with the same number of decimals."""
    mean, half = cell
    if mean is None or half is None:
        return shown(mean)
    scale = max(abs(mean), half)
    if scale < _LEAST:
        return f"{shown(mean)} ± {shown(half)}"
    places = 3 if scale < 10 else 1 if scale < 1000 else 0
    return f"{mean:,.{places}f} ± {half:,.{places}f}"


def _is_count(value: float) -> bool:
    # A mean of counts is shown as a count too, but 1.0 may well be an accuracy.
    return value == 0 or (value.is_integer() and 2 <= abs(value) < 1e15)


def _readable(count: float | None) -> str:
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def table_of(chart: Chart, limit: int = ROWS_OF_A_CHART) -> Table:
    """Return a chart's values as a table.

    Long curves are cut down to `limit` positions at equal distances, the first and the last among them.
    """
    series = [one for one in chart.series if not one.faint]
    where = sorted({x for one in series for x in one.x})
    if len(where) > limit and not chart.labels:
        where = [where[round(i * (len(where) - 1) / (limit - 1))] for i in range(limit)]
    columns = [chart.y if chart.flip else chart.x, *(one.name for one in series)]
    found = [_by_position(one, set(where)) for one in series]
    rows = [[_position(chart, x), *(values.get(x) for values in found)] for x in where]
    return Table(chart.key, chart.title, columns, rows, shown=max(len(rows), limit))


def _position(chart: Chart, x: float) -> Cell:
    return chart.labels[int(x)] if chart.labels else x


def _by_position(series: Series, where: set[float]) -> dict[float, Cell]:
    """Return a series' values at some positions; an interval that is even is shown as one."""
    found: dict[float, Cell] = {}
    for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if x not in where:
            continue
        low = series.low[i] if series.low is not None else None
        high = series.high[i] if series.high is not None else None
        if y is None or low is None or high is None:
            found[x] = y
        else:
            found[x] = Interval(y, (high - low) / 2)
    return found
