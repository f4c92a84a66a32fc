"""Results as the files write them, a mean and half of its 95% interval in fields of a row."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedmeta.report.charts import Series, band
from fedmeta.report.files import number
from fedmeta.report.tables import Interval

Row = Mapping[str, Any]

_HALF = {
    "accuracy": "ci95",
    "loss": "loss_ci95",
    "inductive_accuracy": "inductive_ci95",
    "inductive_loss": "inductive_ci95",
    "mean": "ci95",
}
"""The field with half the interval of each field with a mean."""


def interval_of(row: Row, field: str) -> Interval:
    """Return a row's mean and half its interval."""
    return Interval(number(row, field), number(row, _HALF[field]))


def banded(series: Series, rows: Sequence[Row], field: str) -> Series:
    """Return a series with each row's mean as its values and the interval as a band around them."""
    found = [interval_of(row, field) for row in rows]
    return band(series, [one.mean for one in found], [one.half for one in found])


def step_names(steps: Sequence[int]) -> list[str]:
    """Return the heads of columns by adaptation step."""
    return ["before" if step == 0 else f"{step} steps" for step in steps]
