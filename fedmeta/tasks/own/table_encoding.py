"""Turns a table's cells into a model's inputs and targets, on the scale of the training clients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.tasks.own.table_file import EMPTY, Table

MOST_VALUES = 64
"""Most distinct values of a column of categories."""

Values = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a column over the training clients."""

    mean: float
    deviation: float

    @staticmethod
    def of(values: Values) -> "Scale":
        """Measure all numbers except NaN; sums are exact, so the same on every machine."""
        known = values[~np.isnan(values)].tolist()
        if not known:
            return Scale(0.0, 1.0)
        mean = math.fsum(known) / len(known)
        variance = math.fsum((value - mean) ** 2 for value in known) / len(known)
        return Scale(mean, math.sqrt(variance) or 1.0)

    def apply(self, values: Values) -> Values:
        """Return standardised numbers; NaN, an empty cell, becomes the mean."""
        return np.nan_to_num((values - self.mean) / self.deviation, nan=0.0)


@dataclass(frozen=True)
class Encoder:
    """How columns become inputs.

    Attributes:
        numbers: The scale of each column of numbers.
        categories: The training clients' values of each column of categories, sorted; each is an input
            of 0 or 1, and other values are all 0.
        mean: Whether an empty cell of a column of numbers counts as the mean; otherwise it is refused.
    """

    numbers: dict[str, Scale]
    categories: dict[str, tuple[str, ...]]
    mean: bool

    @staticmethod
    def of(
        table: Table, features: Sequence[str], categories: Sequence[str], training: Rows, mean: bool
    ) -> "Encoder":
        """Measure columns on the training clients' rows.

        Raises:
            DataError: If a column of numbers has something else, or one of categories too many values.
        """
        scales = {
            name: Scale.of(table.numbers(name)[training]) for name in features if name not in categories
        }
        values: dict[str, tuple[str, ...]] = {}
        for name in categories:
            cells = table.columns[name]
            found = sorted({cells[row] for row in training.tolist()} - {""})
            if len(found) > MOST_VALUES:
                raise DataError(
                    f"data.categories: {table.path} has {len(found)} values of '{name}', more than "
                    f"{MOST_VALUES}"
                )
            values[name] = tuple(found)
        return Encoder(scales, values, mean)

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return len(self.numbers) + sum(map(len, self.categories.values()))

    def encode(self, table: Table) -> NDArray[np.float32]:
        """Return inputs ``[rows, inputs]``.

        Raises:
            DataError: If a column is missing, or a cell cannot be used; the message names its line.
        """
        parts: list[Values] = []
        for name, scale in self.numbers.items():
            table.column("data.features", name)
            values = table.numbers(name)
            if not self.mean:
                require_filled(table, name, np.isnan(values))
            parts.append(scale.apply(values))
        for name, known in self.categories.items():
            cells = np.array(table.column("data.categories", name))
            parts += [(cells == value).astype(np.float64) for value in known]
        return np.stack(parts, axis=1).astype(np.float32)


def require_filled(table: Table, name: str, empty: NDArray[np.bool_]) -> None:
    """Refuse a column's first empty cell."""
    if empty.any():
        row = int(empty.argmax())
        raise DataError(
            f"{table.path}, line {table.lines[row]}: {name} is empty: fill it, leave the column out of "
            "data.features, or set data.empty to 'mean'"
        )


def filled(cells: Sequence[str]) -> NDArray[np.bool_]:
    """Return which cells are not empty."""
    return np.array([cell.lower() not in EMPTY for cell in cells], dtype=bool)
