"""Renders reports as HTML, with charts drawn by Plotly."""

import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from fedmeta.report.charts import DASHES, PALETTE, Chart, Heatmap, Series, Values
from fedmeta.report.page import Part
from fedmeta.report.tables import Bytes, Interval, Link, shown

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x", "triangle-down")
MODES = {"line": "lines", "points": "markers", "rings": "markers"}
Trace = dict[str, Any]


def figure(chart: Chart | Heatmap) -> dict[str, Any]:
    """Return plotly's data and layout of a chart, with few enough points for a page."""
    if isinstance(chart, Heatmap):
        return {"data": [_heatmap(chart)], "layout": _heatmap_layout(chart)}
    data = [trace for series in chart.series for trace in _traces(chart, series.thinned())]
    return {"data": data, "layout": _layout(chart)}


def _traces(chart: Chart, series: Series) -> list[Trace]:
    colour = PALETTE[series.colour % len(PALETTE)]
    if series.mark == "bars":
        bars = {"type": "bar", "name": _plain(series.name), "x": series.x, "y": series.y}
        return [bars | {"marker": {"color": colour}}]
    if series.mark != "points" and series.low is not None and series.high is not None:
        return [_band(series, _see_through(chart, colour)), _curve(chart, series, colour)]
    return [_curve(chart, series, colour)]


def _curve(chart: Chart, series: Series, colour: str) -> Trace:
    bars = _error(series, colour)
    values = {"x": series.y, "y": series.x} if chart.flip else {"x": series.x, "y": series.y}
    trace: Trace = {
        "type": "scatter",
        "name": _plain(series.name),
        "mode": MODES.get(series.mark, "lines+markers"),
        "line": {"color": colour, "width": 1 if series.faint else 2, "dash": DASHES[series.dash % 4]},
        "marker": {"color": colour} | _symbol(series),
        "opacity": 0.3 if series.faint else 1,
        "showlegend": not series.faint and series.mark != "rings",
        **values,
    }
    if bars and series.mark == "points":
        trace["error_x" if chart.flip else "error_y"] = bars
    if series.faint:
        trace["hoverinfo"] = "skip"
    if series.hover:
        trace |= {"text": series.hover, "hovertemplate": "%{text}<extra></extra>"}
    return trace


def _symbol(series: Series) -> Trace:
    if series.mark == "rings":
        return {"size": 13, "symbol": "circle-open", "line": {"width": 2}}
    return {"size": 7, "symbol": SYMBOLS[series.colour % len(SYMBOLS)]}


def _band(series: Series, colour: str) -> Trace:
    """Return the area between the ends of a curve's band, as one outline; gaps are left out."""
    rows = zip(series.x, series.low or (), series.high or (), strict=True)
    known = [(x, low, high) for x, low, high in rows if low is not None and high is not None]
    return {
        "type": "scatter",
        "x": [x for x, _, _ in known] + [x for x, _, _ in reversed(known)],
        "y": [high for _, _, high in known] + [low for _, low, _ in reversed(known)],
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _see_through(chart: Chart, colour: str) -> str:
    # Many bands on top of each other would hide all but the last.
    bands = sum(one.low is not None for one in chart.series)
    return f"{colour}{'2b' if bands <= 3 else '16'}"


def _error(series: Series, colour: str) -> Trace | None:
    if series.low is None or series.high is None:
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": _difference(series.high, series.y),
        "arrayminus": _difference(series.y, series.low),
        "color": colour,
        "thickness": 1.5,
        "width": 4,
    }


def _difference(first: Values, second: Values) -> list[float]:
    pairs = zip(first, second, strict=True)
    return [0.0 if a is None or b is None else a - b for a, b in pairs]


def _layout(chart: Chart) -> dict[str, Any]:
    across, down = _axis(chart.x, chart.log_x), _axis(chart.y, chart.log_y)
    if chart.window and not chart.log_y and not chart.flip:
        down["range"] = list(chart.window)
    if not chart.ticks:
        across["showticklabels"] = down["showticklabels"] = False
    if chart.labels:
        ticks = {
            "tickvals": list(range(len(chart.labels))),
            "ticktext": [_plain(label) for label in chart.labels],
        }
        (down if chart.flip else across).update(ticks)
    if chart.flip:
        down |= {"autorange": "reversed"}
    layout: dict[str, Any] = {
        "xaxis": across,
        "yaxis": down,
        "barmode": "stack",
        "showlegend": not chart.flip,
    }
    if chart.line is not None:
        layout["shapes"] = [_mark(chart)]
        layout["annotations"] = [_mark_name(chart)]
    if chart.flip:
        layout["height"] = 130 + 34 * len(chart.labels)
    return layout


def _mark(chart: Chart) -> dict[str, Any]:
    at = {"x0": chart.line, "x1": chart.line, "yref": "paper", "y0": 0, "y1": 1}
    if not chart.flip:
        at = {"y0": chart.line, "y1": chart.line, "xref": "paper", "x0": 0, "x1": 1}
    return {"type": "line", "line": {"width": 1, "dash": "dot", "color": "#8C8C8C"}, **at}


def _mark_name(chart: Chart) -> dict[str, Any]:
    at = {"x": chart.line, "yref": "paper", "y": 1, "yanchor": "bottom"}
    if not chart.flip:
        at = {"y": chart.line, "xref": "paper", "x": 1, "xanchor": "right", "yanchor": "bottom"}
    return {"text": _plain(chart.line_name), "showarrow": False, "font": {"size": 11}, **at}


def _axis(title: str, log: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": _plain(title)}}
    return axis | {"type": "log"} if log else axis


def _heatmap(chart: Heatmap) -> Trace:
    known = [abs(value) for row in chart.values for value in row if value is not None]
    end = max(known, default=1.0) or 1.0
    return {
        "type": "heatmap",
        "x": chart.columns,
        "y": [_plain(name) for name in chart.rows],
        "z": chart.values,
        "zmin": -end if chart.signed else 0,
        "zmax": end,
        "colorscale": DIVERGING if chart.signed else RISING,
        "colorbar": {"title": {"text": _plain(chart.unit)}, "thickness": 12, "outlinewidth": 0},
        "hoverongaps": False,
    }


DIVERGING: Sequence[Sequence[Any]] = ((0, "#D55E00"), (0.5, "#F2F2F2"), (1, "#0072B2"))
"""From negative to positive: vermilion and blue, which the colour-blind can tell apart."""


RISING: Sequence[Sequence[Any]] = ((0, "#F2F2F2"), (1, "#0072B2"))
"""From 0 on: the positive half of it."""


def _heatmap_layout(chart: Heatmap) -> dict[str, Any]:
    down = {"title": {"text": ""}, "autorange": "reversed", "type": "category", "automargin": True}
    height = 120 + min(max(len(chart.rows) * 18, 160), 900)
    return {"xaxis": _axis(chart.x, False), "yaxis": down, "height": height}


def _plain(text: str) -> str:
    # Plotly interprets some HTML in texts; names from files must stay text.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


MOST_ROWS = 5000
"""Rows of a table in a page: a browser cannot show the replies of a million clients."""
_STATUSES = ("running", "finished", "failed", "interrupted", "killed")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}|0x[0-9a-fA-F]{64}")
_CODE = re.compile(r"`([^`\n]+)`")
_HERE = Path(__file__).parents[1] / "templates"
LOOK = Path(__file__).parents[1] / "look"
"""Folder of the style and the script that the report shares with the live page."""


def render(title: str, parts: Sequence[Part]) -> str:
    """Return the report as one self-contained page.

    Args:
        title: Its heading.
        parts: Runs and comparisons, in order.
    """
    figures = figures_of(parts)
    script = _text(LOOK / "drawing.js") + Markup("drawCharts();\n")
    plotly = _plotly() if figures else Markup("")
    return (
        _environment()
        .get_template("report.html")
        .render(
            policy=_policy(script, plotly),
            title=title,
            parts=parts,
            figures=figures,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            style=_text(LOOK / "look.css", _HERE / "report.css"),
            script=script,
            plotly=plotly,
        )
    )


def render_part(part: Part) -> Markup:
    """Return the part of one run or comparison in a report, without the page around it."""
    module: Any = _environment().get_template("part.html").module
    return Markup(module.article(part))


def figures_of(parts: Sequence[Part]) -> dict[str, dict[str, Any]]:
    """Return Plotly's data and layout of each chart, by the ``data-chart`` of its place in the page."""
    return {f"{part.key}-{chart.key}": figure(chart) for part in parts for chart in part.charts}


def _policy(*scripts: str) -> str:
    """Return the page's Content-Security-Policy: its own scripts run, and nothing is loaded."""
    sums = (b64encode(sha256(one.encode()).digest()).decode() for one in scripts)
    own = " ".join(f"'sha256-{one}'" for one in sums)
    return (
        f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    # Names and error texts from files are escaped.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["most_rows"] = MOST_ROWS
    environment.filters["shown"] = shown
    environment.filters["with_code"] = _with_code
    environment.filters["status_class"] = lambda status: status if status in _STATUSES else "unreadable"
    environment.tests["address"] = lambda cell: isinstance(cell, str) and bool(_ADDRESS.fullmatch(cell))
    environment.tests["link"] = lambda cell: isinstance(cell, Link)
    environment.tests["quantity"] = lambda cell: (
        isinstance(cell, int | float | Interval | Bytes) or cell is None
    )
    return environment


def _with_code(text: str) -> Markup:
    """Return a text as HTML, with what is between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _text(*files: Path) -> Markup:
    return Markup("".join(file.read_text(encoding="utf-8") for file in files))


@cache
def _plotly() -> Markup:
    return Markup(get_plotlyjs().replace("</script", "<\\/script").replace("\r\n", "\n"))
