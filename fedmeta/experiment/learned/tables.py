"""Adapts a model to the rows of a table, and predicts those of another."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmeta.config import parts
from fedmeta.errors import DataError, UsageError
from fedmeta.experiment.learned.adapted import Adapted
from fedmeta.experiment.learned.model import Learned
from fedmeta.options import nearest
from fedmeta.tasks import build_family
from fedmeta.tasks.families.table import Table
from fedmeta.tasks.own.table_encoding import filled
from fedmeta.tasks.own.table_file import Table as Cells
from fedmeta.tasks.own.table_file import read_table


@dataclass(frozen=True)
class Predicted:
    """The prediction for a row.

    Attributes:
        line: The line of the file that the row begins in.
        target: The column that is predicted.
        value: The predicted number, or the most probable class.
        probability: The probability of that class; None in regression.
        truth: The file's value; None: it has none.
    """

    line: int
    target: str
    value: float | str
    probability: float | None
    truth: str | None


@dataclass(frozen=True)
class TableAnswer:
    """The result for a pair of tables.

    Attributes:
        adapted: The adapted model of each target.
        rows: The rows to predict, with predictions.
    """

    adapted: dict[str, Adapted]
    rows: tuple[Predicted, ...]

    @property
    def quality(self) -> dict[str, float]:
        """The accuracy or the mean absolute error of each target whose true values are given."""
        found: dict[str, float] = {}
        for target in self.adapted:
            told = [row for row in self.rows if row.target == target and row.truth is not None]
            if told and told[0].probability is not None:
                found[f"accuracy of {target}"] = float(np.mean([row.value == row.truth for row in told]))
            elif told:
                errors = [abs(float(row.value) - float(row.truth or "nan")) for row in told]
                found[f"mean absolute error of {target}"] = float(np.mean(errors))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain values."""
        first = next(iter(self.adapted.values()))
        return {
            **first.trained.about,
            "steps": first.steps,
            "rows": [asdict(row) for row in self.rows],
            "quality": self.quality,
        }


def adapt_tables(learned: Learned, support: Path, query: Path, steps: int | None = None) -> TableAnswer:
    """Adapt to the rows of one table and predict those of another.

    The scale of columns is that of the run's own table, which is read again.

    Args:
        learned: A run on a table.
        support: Rows with the target; if there are several targets, any of them.
        query: Rows to predict; with the target, the error is reported.
        steps: Adaptation steps; None: the last of the run's ``evaluation.steps``.

    Raises:
        UsageError: If the run is not about tables.
        DataError: If a table cannot be used; the message names the line.
        DivergedError: If the weights became non-finite.
    """
    config = learned.config
    if config.task != "table":
        raise UsageError(f"{learned.path} was trained on '{config.task}', which does not read tables")
    family = build_family(config.task, config.data, parts.population(config), config.seed)
    assert isinstance(family, Table)
    options = family.options
    given, asked = (read_table(path, options.delimiter, options.decimal) for path in (support, query))
    targets = [name for name in options.targets if name in given.columns]
    if not targets:
        raise DataError(f"{support} has no column '{options.targets[0]}' to adapt to")
    adapted: dict[str, Adapted] = {}
    rows: list[Predicted] = []
    x = family.encoder.encode(asked)
    for name in targets:
        adapted[name] = _adapt(learned, family, given, name, steps)
        said = adapted[name].predict(x)
        rows += _rows(family, adapted[name], asked, name, said)
    return TableAnswer(adapted, tuple(rows))


def _adapt(learned: Learned, family: Table, given: Cells, name: str, steps: int | None) -> Adapted:
    known = np.flatnonzero(filled(given.columns[name]))
    if not len(known):
        raise DataError(f"{given.path} has no row with '{name}'")
    x = family.encoder.encode(given)[known]
    target = family.targets[name]
    if target.scale is not None:
        y = (given.numbers(name)[known] - target.scale.mean) / target.scale.deviation
        return learned.adapt(x, y[:, None], steps)
    labels = []
    for row in known.tolist():
        if (cell := given.columns[name][row]) not in target.classes:
            hint = nearest(cell, target.classes)
            raise DataError(f"{given.path}, line {given.lines[row]}: {name} is {cell!r}: {hint}")
        labels.append(target.classes.index(cell))
    if len(set(labels)) < 2:
        raise DataError(f"{given.path} has rows of one class only, {target.classes[labels[0]]!r}")
    return learned.adapt(x, labels, steps)


def _rows(
    family: Table, adapted: Adapted, asked: Cells, name: str, said: np.ndarray[Any, Any]
) -> Iterator[Predicted]:
    target = family.targets[name]
    truths = asked.columns.get(name, ("",) * len(asked))
    told = filled(truths)
    if target.scale is not None and name in asked.columns:
        asked.numbers(name)
    for place, line in enumerate(asked.lines):
        truth = truths[place] if told[place] else None
        if target.scale is not None:
            value = float(said[place, 0]) * target.scale.deviation + target.scale.mean
            number = None if truth is None else truth.replace(",", ".")
            yield Predicted(line, name, value, None, number)
        else:
            best = int(said[place].argmax())
            label = target.classes[int(str((adapted.classes or ())[best]))]
            yield Predicted(line, name, label, float(said[place, best]), truth)
