"""A run as a short piece of HTML for notebooks: one curve, one table, no script."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from math import floor, log10
from pathlib import Path

from fedmeta.report.arms import Arms
from fedmeta.report.charts import PALETTE, Chart, Series, Values
from fedmeta.report.measured import main_measure, results_table
from fedmeta.report.read import RunFiles, read_compare, read_run
from fedmeta.report.sections.learning import learning_charts
from fedmeta.report.tables import Table, shown

_CELL = "padding:2px 10px;text-align:right;border:0;white-space:nowrap"


def run_snippet(path: Path) -> str:
    """Return a run's learning curve and its result by adaptation step as HTML.

    Args:
        path: The run's folder, in whatever state it is.
    """
    run = read_run(path)
    parts = [
        _head(run),
        _curve(run),
        _shown(results_table(run.final, run.measures)) if run.final else "",
    ]
    return f'<div style="max-width:680px">{"".join(parts)}</div>'


def compare_snippet(path: Path) -> str:
    """Return a comparison's curves and its result by arm as HTML.

    Args:
        path: The comparison's folder, in whatever state it is.
    """
    files = read_compare(path)
    if files.record is None:
        return f"<p><strong>{escape(files.name)}</strong><br><em>{escape(str(files.problem))}</em></p>"
    arms = Arms(files.record, files.path)
    charts = [chart for chart in (arms.curve("round", "rounds"), arms.adaptation()) if not chart.empty]
    drawn = "".join(f"{draw(replace(chart, log_y=False))}{_legend(chart)}" for chart in charts)
    tables = "".join(_shown(table) for table in (arms.finals(), arms.differences()) if table.rows)
    return f'<div style="max-width:680px">{drawn}{tables}<p>{escape(arms.intervals)}</p></div>'


def _shown(table: Table) -> str:
    rows = (_row([shown(cell) for cell in row]) for row in table.rows)
    head = _row(table.columns, "th")
    body = f'<table style="border-collapse:collapse">{head}{"".join(rows)}</table>'
    return f"<p>{escape(table.title)}</p>{body}"


def _head(run: RunFiles) -> str:
    config, rounds = run.config, len(run.metrics)
    what = f"{config.algorithm} on {config.task}, seed {config.seed}, " if config else ""
    total = f" of {config.rounds}" if config else ""
    said = f"{what}{rounds}{total} rounds, {run.status}"
    why = run.problem or (run.info.get("error") if run.status == "failed" else None)
    problem = f"<br><em>{escape(str(why))}</em>" if why else ""
    return f"<p><strong>{escape(run.name)}</strong><br>{escape(said)}{problem}</p>"


def _curve(run: RunFiles) -> str:
    key = f"learning-{main_measure(run)}"
    found = [chart for chart in learning_charts(run) if chart.key == key]
    return "".join(f"{draw(replace(chart, log_y=False))}{_legend(chart)}" for chart in found)


def _legend(chart: Chart) -> str:
    keys = (
        f'<span style="color:{PALETTE[one.colour % len(PALETTE)]}">&#9632;</span> {escape(one.name)}'
        for one in chart.series
        if not one.faint
    )
    return f'<p style="font-size:85%">{" &nbsp; ".join(keys)}</p>'


def _row(cells: Sequence[str], kind: str = "td") -> str:
    return (
        "<tr>" + "".join(f'<{kind} style="{_CELL}">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"
    )


WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40
_DASHES = ("none", "6 4", "2 3", "8 3 2 3")


class _Scale:
    """Maps values of an axis to pixels; an empty range is widened."""

    def __init__(self, values: Iterable[float], pixels: tuple[float, float]) -> None:
        known = list(values) or [0.0, 1.0]
        self.low, self.high = min(known), max(known)
        if self.high - self.low <= 1e-12 * max(abs(self.low), abs(self.high), 1e-300):
            pad = abs(self.low) * 0.1 or 0.5
            self.low, self.high = self.low - pad, self.high + pad
        self._pixels = pixels

    def __call__(self, value: float) -> float:
        first, last = self._pixels
        return first + (value - self.low) / (self.high - self.low) * (last - first)

    def ticks(self) -> list[float]:
        """Return four to eight round numbers within the range."""
        raw = (self.high - self.low) / 5
        unit = 10.0 ** floor(log10(raw))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
        first = int(-(-self.low // step))
        return [n * step for n in range(first, int(self.high // step) + 1)]


def draw(chart: Chart) -> str:
    """Return the chart as one ``<svg>`` element, in the colour of the text around it."""
    series = [one.thinned() for one in chart.series]
    xs = _Scale((x for one in series for x in one.x), (_LEFT, WIDTH - _RIGHT))
    ends = (known for one in series for column in (one.y, one.low, one.high) for known in _known(column))
    ys = _Scale(ends, (HEIGHT - _BOTTOM, _TOP))
    body = "".join([_axes(chart, xs, ys), *(_series(one, xs, ys) for one in series)])
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}" '
        f'style="max-width:{WIDTH}px;width:100%;height:auto;display:block;color:inherit" '
        f'font-family="sans-serif" font-size="11">{body}</svg>'
    )


def _known(values: Values | None) -> list[float]:
    return [value for value in values or () if value is not None]


def _axes(chart: Chart, xs: _Scale, ys: _Scale) -> str:
    parts = []
    for tick in ys.ticks():
        y = ys(tick)
        parts.append(
            _line(_LEFT, y, WIDTH - _RIGHT, y, 0.15) + _text(_LEFT - 6, y + 4, f"{tick:g}", "end")
        )
    for tick in xs.ticks():
        parts.append(_text(xs(tick), HEIGHT - _BOTTOM + 16, f"{tick:g}", "middle"))
    bottom = HEIGHT - _BOTTOM
    parts.append(_line(_LEFT, bottom, WIDTH - _RIGHT, bottom, 0.6))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, escape(chart.x), "middle"))
    middle = (bottom + _TOP) / 2
    turned = f' transform="rotate(-90 12 {middle:.1f})"'
    parts.append(_text(12, middle, escape(chart.y), "middle", turned))
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="currentColor" stroke-opacity="{opacity}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{more}>{text}</text>'
    )


def _series(series: Series, xs: _Scale, ys: _Scale) -> str:
    colour = PALETTE[series.colour % len(PALETTE)]
    points = [(xs(x), None if y is None else ys(y)) for x, y in zip(series.x, series.y, strict=True)]
    look = f'stroke="{colour}" stroke-width="{0.7 if series.faint else 2}" fill="none"'
    dash = f' stroke-dasharray="{_DASHES[series.dash % len(_DASHES)]}"' if series.dash else ""
    opacity = ' opacity="0.35"' if series.faint else ""
    path = f'<path d="{_path(points)}" {look}{dash}{opacity}><title>{escape(series.name)}</title></path>'
    if series.mark == "line":
        return _band(series, xs, ys, colour) + path
    dots = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
        for x, y in points
        if y is not None
    )
    lines = path if "line" in series.mark else ""
    return _band(series, xs, ys, colour) + lines + "".join(dots)


def _band(series: Series, xs: _Scale, ys: _Scale, colour: str) -> str:
    if series.low is None or series.high is None:
        return ""
    rows = zip(series.x, series.low, series.high, strict=True)
    known = [(xs(x), ys(low), ys(high)) for x, low, high in rows if low is not None and high is not None]
    around = [(x, high) for x, _, high in known] + [(x, low) for x, low, _ in reversed(known)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in around)
    return f'<polygon points="{corners}" fill="{colour}" fill-opacity="0.15"/>'


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """Return the line through the points, broken where one is missing."""
    commands, pen_up = [], True
    for x, y in points:
        if y is not None:
            commands.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
        pen_up = y is None
    return "".join(commands)
