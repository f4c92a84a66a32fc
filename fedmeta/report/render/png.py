"""Draws charts as PNG files with Matplotlib."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmeta.errors import UsageError
from fedmeta.files import write_atomically
from fedmeta.report.charts import PALETTE, Chart, Heatmap, Series
from fedmeta.report.page import Keys, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_EXTRA = "pictures need their extra: pip install 'fedmeta[png]'"
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_MARKERS = "oDs^P*Xv"


def require_extra() -> None:
    """Require the extra `png`.

    Raises:
        UsageError: In one line that says what to install.
    """
    try:
        missing = find_spec("matplotlib") is None
    except ValueError:
        missing = True
    if missing:
        raise UsageError(NO_EXTRA)


def write_pictures(folder: Path, parts: Sequence[Part]) -> list[Path]:
    """Write ``<part>-<chart>.png`` for each chart of each part.

    Args:
        folder: Made if missing; files of the same name are replaced.
        parts: Of the report.

    Returns:
        What was written.

    Raises:
        UsageError: If matplotlib is missing.
        OSError: If it cannot be written.
    """
    require_extra()
    folder.mkdir(parents=True, exist_ok=True)
    written, keys = [], Keys()
    for part in parts:
        for chart in part.charts:
            path = folder / f"{keys.new(f'{part.key}-{chart.key}')}.png"
            draw(chart, path)
            written.append(path)
    return written


def draw(chart: Chart | Heatmap, path: Path) -> None:
    """Draw one chart into a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, _height(chart)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_plain(chart.title), loc="left", fontsize=11)
    axes.set_xlabel(_plain(chart.x))
    if isinstance(chart, Heatmap):
        _heatmap(axes, chart)
    else:
        _chart(axes, chart)
    with warnings.catch_warnings():
        # The font may lack a letter of a name; a box is drawn instead.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        # No date and no version: the same files give the same picture.
        picture = BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_atomically(path, picture.getvalue())


def _height(chart: Chart | Heatmap) -> float:
    if isinstance(chart, Heatmap):
        return 2 + min(len(chart.rows) * 0.2, 8)
    return 1.6 + 0.4 * len(chart.labels) if chart.flip else 4


def _chart(axes: "Axes", chart: Chart) -> None:
    axes.set_ylabel("" if chart.flip else _plain(chart.y))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    bottoms: dict[float, float] = {}
    for series in chart.series:
        _series(axes, chart, series, bottoms)
    if chart.line is not None:
        mark = axes.axvline if chart.flip else axes.axhline
        mark(chart.line, color="#8C8C8C", linewidth=1, linestyle="dotted", label=_plain(chart.line_name))
    if chart.window and not chart.log_y and not chart.flip:
        axes.set_ylim(*chart.window)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    if chart.labels:
        _label(axes, chart)
    if not chart.ticks:
        axes.tick_params(labelbottom=False, labelleft=False)
    if not chart.flip:
        axes.legend(frameon=False, fontsize=8)


def _label(axes: "Axes", chart: Chart) -> None:
    places, names = range(len(chart.labels)), [_plain(name) for name in chart.labels]
    if chart.flip:
        axes.set_yticks(places, names)
        axes.set_ylim(len(chart.labels) - 0.5, -0.5)
    else:
        axes.set_xticks(places, names, rotation=90 if len(names) > 12 else 0, fontsize=8)


def _series(axes: "Axes", chart: Chart, series: Series, bottoms: dict[float, float]) -> None:
    colour = PALETTE[series.colour % len(PALETTE)]
    look: dict[str, Any] = {"color": colour, "label": None if series.faint else _plain(series.name)}
    values = [float("nan") if y is None else y for y in series.y]
    if series.mark == "bars":
        under = [bottoms.get(x, 0.0) for x in series.x]
        axes.bar(series.x, values, bottom=under, width=_width(series.x), **look)
        bottoms.update({x: b + y for x, b, y in zip(series.x, under, values, strict=True)})
        return
    ends = _ends(series)
    if ends and series.mark == "points":
        _points_with_bars(axes, chart, series, ends, look)
        return
    if ends:
        axes.fill_between(
            [x for x, _, _ in ends], *_columns(ends), color=colour, alpha=0.12, linewidth=0
        )
    if series.mark == "rings":
        look |= {"markerfacecolor": "none", "label": None, "linestyle": "none"}
        axes.plot(series.x, values, marker="o", markersize=9, linewidth=0, **look)
        return
    look["linestyle"] = "none" if series.mark == "points" else _DASHES[series.dash % 4]
    marker = "" if series.mark == "line" else _MARKERS[series.colour % len(_MARKERS)]
    width, alpha = (0.6, 0.35) if series.faint else (1.6, 1.0)
    axes.plot(series.x, values, marker=marker, markersize=4, linewidth=width, alpha=alpha, **look)


def _points_with_bars(
    axes: "Axes",
    chart: Chart,
    series: Series,
    ends: list[tuple[float, float, float]],
    look: dict[str, Any],
) -> None:
    where, lows, highs = [x for x, _, _ in ends], *_columns(ends)
    centre = dict(zip(series.x, series.y, strict=True))
    values = [float(centre[x] or 0.0) for x in where]
    bars = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for value, high in zip(values, highs, strict=True)],
    ]
    marker = _MARKERS[series.colour % len(_MARKERS)]
    if chart.flip:
        axes.errorbar(values, where, xerr=bars, fmt=marker, markersize=5, capsize=3, **look)
    else:
        axes.errorbar(where, values, yerr=bars, fmt=marker, markersize=5, capsize=3, **look)


def _ends(series: Series) -> list[tuple[float, float, float]]:
    rows = zip(series.x, series.low or (), series.high or (), strict=False)
    return [(x, low, high) for x, low, high in rows if low is not None and high is not None]


def _columns(ends: list[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    return [low for _, low, _ in ends], [high for _, _, high in ends]


def _width(x: Sequence[float]) -> float:
    return 0.8 * (x[1] - x[0]) if len(x) > 1 else 0.8


def _heatmap(axes: "Axes", chart: Heatmap) -> None:
    import numpy as np

    values = np.array([[np.nan if v is None else v for v in row] for row in chart.values], dtype=float)
    end = float(np.nanmax(np.abs(values))) or 1.0
    half = (chart.columns[1] - chart.columns[0]) / 2 if len(chart.columns) > 1 else 0.5
    edges = (chart.columns[0] - half, chart.columns[-1] + half, len(chart.rows) - 0.5, -0.5)
    shown = axes.imshow(
        values,
        aspect="auto",
        cmap="PuOr" if chart.signed else "Blues",
        vmin=-end if chart.signed else 0,
        vmax=end,
        extent=edges,
        interpolation="nearest",
    )
    axes.set_yticks(range(len(chart.rows)), [_plain(name) for name in chart.rows], fontsize=7)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(shown, ax=axes, label=_plain(chart.unit))


def _plain(text: str) -> str:
    # A dollar begins a formula, and Matplotlib fails on an invalid one.
    return text.replace("$", r"\$")
