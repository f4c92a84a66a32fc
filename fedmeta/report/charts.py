"""Charts as plain data, and downsampling of long curves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from fedmeta.tasks import Measure

LIMIT = 1500
"""Most points of a drawn curve; a screen has about as many pixels."""


def keep(columns: Sequence[Sequence[float | None]], limit: int = LIMIT) -> list[int]:
    """Choose the points of a curve that are drawn.

    The points are cut into buckets of equal length. Of each bucket every column's lowest and highest
    value stay, and one missing value, so that a gap stays a gap; the first and the last point stay too.

    Args:
        columns: Values that share the points, such as a mean and the two ends of its band; None: a gap.
        limit: Most points to keep, up to rounding; a curve that is no longer than that is kept whole.

    Returns:
        Rising positions.
    """
    length = len(columns[0]) if columns else 0
    if length <= limit:
        return list(range(length))
    buckets = max((limit - 2) // (3 * len(columns)), 1)
    edges = np.linspace(0, length, buckets + 1).astype(int)
    kept = {0, length - 1}
    for column in columns:
        values = np.array([np.nan if value is None else value for value in column], dtype=float)
        kept.update(_standing_out(values, edges))
    return sorted(kept)


def _standing_out(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Return the positions of the lowest, the highest and a missing value of each bucket."""
    first, end = edges[:-1, None], edges[1:, None]
    # Buckets differ in length by at most one; the shorter ones repeat their last value.
    at = np.minimum(first + np.arange(int((end - first).max())), end - 1)
    missing = np.isnan(values)
    low = np.where(missing, np.inf, values)[at].argmin(axis=1)
    high = np.where(missing, -np.inf, values)[at].argmax(axis=1)
    gap = missing[at].argmax(axis=1)
    rows = np.arange(len(at))
    extremes = np.concatenate((at[rows, low], at[rows, high]))
    gaps = at[rows, gap]
    return [*extremes[~missing[extremes]].tolist(), *gaps[missing[gaps]].tolist()]


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#B8A800")
"""Okabe and Ito's colour-blind-safe colours, with grey and olive for black and yellow."""
DASHES = ("solid", "dash", "dot", "dashdot")
"""Line styles, so that a chart can be read without colours."""


def bounds_of(scale: "Measure | None") -> tuple[float, float] | None:
    """Return the bounds of a measure; None if it has none."""
    if scale is None or scale.low is None or scale.high is None:
        return None
    return scale.low, scale.high


Values = Sequence[float | None]
Mark = Literal["line", "points", "rings", "line+points", "bars"]


@dataclass(frozen=True)
class Series:
    """One curve, or one set of points.

    Attributes:
        name: Stands in the legend.
        x: Where, in the unit of the chart's `x`; positions of `Chart.labels` where there are labels.
        y: What, in the unit of the chart's `y`; None: not known, and the line is broken.
        low: Lower end of the band or error bar; None: there is none.
        high: Upper end.
        mark: How it is drawn.
        colour: Its place in the palette; the same thing has the same one in all charts.
        dash: Its place among the styles of lines.
        hover: A text for each point; empty: none.
        faint: It stays in the background.
    """

    name: str
    x: Sequence[float]
    y: Values
    low: Values | None = None
    high: Values | None = None
    mark: Mark = "line"
    colour: int = 0
    dash: int = 0
    hover: Sequence[str] = ()
    faint: bool = False

    def thinned(self, limit: int = LIMIT) -> "Series":
        """Return the series with few enough points to draw; extremes survive, see `keep`."""
        columns = [self.y] + [ends for ends in (self.low, self.high) if ends is not None]
        at = keep(columns, limit)
        if len(at) == len(self.y):
            return self
        return replace(
            self,
            x=[self.x[i] for i in at],
            y=[self.y[i] for i in at],
            low=None if self.low is None else [self.low[i] for i in at],
            high=None if self.high is None else [self.high[i] for i in at],
            hover=[self.hover[i] for i in at] if self.hover else (),
        )


@dataclass(frozen=True)
class Chart:
    """A chart as plain data.

    Attributes:
        key: Names its files, such as ``learning-accuracy``.
        title: What it shows.
        x: Label of the horizontal axis, with its unit.
        y: Label of the vertical axis, with its unit.
        series: What is drawn.
        note: How to read it: what the bands are, where the values come from.
        log_x: The horizontal axis is logarithmic; likewise `log_y`.
        bounds: What `y` can be at all: a band that leaves them is not drawn further.
        labels: Names of the positions 0, 1, ... of `x`; empty: `x` is a quantity.
        flip: Positions go down the page and values across it, as in a forest plot.
        line: A value that is marked by a thin line, such as chance, a target or no difference.
        line_name: What it is.
        ticks: Whether the axes have numbers.
    """

    key: str
    title: str
    x: str
    y: str
    series: Sequence[Series]
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    bounds: tuple[float, float] | None = None
    labels: Sequence[str] = ()
    flip: bool = False
    line: float | None = None
    line_name: str = ""
    ticks: bool = True

    @property
    def window(self) -> tuple[float, float] | None:
        """The range of the vertical axis: all values and bands, within the bounds."""
        columns = [column for one in self.series for column in (one.y, one.low, one.high) if column]
        known = [value for column in columns for value in column if value is not None]
        if self.bounds is None or not known:
            return None
        low, high = max(min(known), self.bounds[0]), min(max(known), self.bounds[1])
        margin = 0.04 * (high - low) or 0.01
        return low - margin, high + margin

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return all(value is None for series in self.series for value in series.y)


def band(series: Series, means: Values, half: Values) -> Series:
    """Return a series with `means` as its values and a band of half width `half` around them."""
    pairs = list(zip(means, half, strict=True))
    return replace(
        series,
        y=list(means),
        low=[None if m is None or h is None else m - h for m, h in pairs],
        high=[None if m is None or h is None else m + h for m, h in pairs],
    )


@dataclass(frozen=True)
class Heatmap:
    """A heatmap, such as of scores by client and round.

    Attributes:
        key: Names its files.
        title: What it shows.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        columns: Where the columns stand on the horizontal axis.
        rows: Names of the rows, from above.
        values: ``values[row][column]``; None: nothing there.
        unit: What the values are.
        note: How to read it.
        signed: Whether values may be below 0.
    """

    key: str
    title: str
    x: str
    y: str
    columns: Sequence[float]
    rows: Sequence[str]
    values: Sequence[Values]
    unit: str
    note: str = ""
    signed: bool = True
