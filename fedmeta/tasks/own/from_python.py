"""Writes data from pandas, Hugging Face datasets and Flower partitioners as files that runs read."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedmeta.errors import DataError, UsageError
from fedmeta.options import nearest
from fedmeta.tasks.own.folders import digest_of_files

CLIENT = "client"
"""Column of a table with the number of a row's partition."""

log = logging.getLogger(__name__)

_READS = "a pandas frame, a datasets.Dataset or a partitioner of flwr_datasets"


def write_data(
    data: Any,
    path: Path | str,
    *,
    target: str | Sequence[str],
    client: str | None = None,
    inputs: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write data where runs, their workers and `resume` read it, and return the settings that name it.

    A path that ends in ``.csv`` becomes a table for ``task = "table"``. Any other becomes a folder for
    ``task = "arrays"``, with a file for each client. The same data may be written there again.

    Args:
        data: A pandas frame, a ``datasets.Dataset``, or a partitioner of ``flwr_datasets``, whose
            partitions are clients; empty ones are left out.
        path: The file or folder to write.
        target: The column to predict; in a table perhaps several.
        client: The column that names the client of each row; None for a partitioner.
        inputs: For a table, the columns to predict from; None: all others. For arrays, one column of
            arrays or images of equal shape, or several of numbers. Images become ``[channels, height,
            width]``.

    Returns:
        Settings for `fedmeta.run`, such as ``{"task": "table", "data.path": "/me/doses.csv", ...}``.

    Raises:
        UsageError: If it is not such data, has no such column, or the path holds something else.
        DataError: If cells cannot be written.
    """
    targets, columns = _listed(target), None if inputs is None else _listed(inputs)
    place = Path(path).expanduser().resolve()
    partitioned = hasattr(data, "load_partition") and hasattr(data, "num_partitions")
    if partitioned == (client is not None):
        raise UsageError(
            f"client = {client!r}, but each partition is a client: leave it out"
            if partitioned
            else f"client: name the column with each row's client: {_known(data)}"
        )
    if not partitioned:
        _columns(data)
    _require_distinct([*([] if client is None else [client]), *targets, *(columns or ())], targets)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
            draft = Path(scratch) / place.name
            if place.suffix.lower() == ".csv":
                settings = _write_table(data, draft, targets, client, columns)
            else:
                settings = _write_arrays(data, draft, targets, client, columns)
            _move(draft, place)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}") from None
    except UnicodeEncodeError:
        raise DataError("a cell or a name holds text that is not valid Unicode") from None
    return {**settings, "data.path": str(place)}


def _write_table(
    data: Any, path: Path, targets: list[str], client: str | None, inputs: list[str] | None
) -> dict[str, Any]:
    named = [(name, _frame(part)) for name, part in _parts(data, None)]
    parts = [part for _, part in named]
    if client is None:
        client = CLIENT
        _require_free(parts[0])
        parts = [part.assign(**{CLIENT: int(name)}) for name, part in named]
    for name in (client, *targets, *(inputs or ())):
        _require_column(parts[0], name)
    for part in parts:
        _require_owners(part, client)
    others = [name for name in parts[0].columns if name not in (client, *targets)]
    used = others if inputs is None else inputs
    for name in used:
        if any(isinstance(cell, list | tuple | dict | np.ndarray) for cell in parts[0][name]):
            raise UsageError(
                f"'{name}' holds arrays, which a table cannot: leave it out of inputs, or name a folder "
                "to write arrays"
            )
    _require_distinct([str(name) for name in parts[0].columns], targets)
    with path.open("w", encoding="utf-8", newline="") as file:
        for place, part in enumerate(parts):
            part[[client, *used, *targets]].to_csv(file, index=False, header=not place)
    text = [name for name in used if any(part[name].dtype.kind not in "iuf" for part in parts)]
    return {
        "task": "table",
        "data.client": client,
        "data.target": targets[0] if len(targets) == 1 else targets,
        "data.categories": text,
        "data.delimiter": ",",
        "data.decimal": ".",
    }


def _write_arrays(
    data: Any, folder: Path, targets: list[str], client: str | None, inputs: list[str] | None
) -> dict[str, Any]:
    if len(targets) != 1 or not inputs:
        raise UsageError("arrays need one target, and the columns of their inputs: inputs = 'image'")
    folder.mkdir()
    for name, part in _parts(data, client):
        for column in (*targets, *inputs):
            _require_column(part, column)
        if not re.fullmatch(r"[^./\\\0][^/\\\0]*", name):
            raise UsageError(f"client {name!r} cannot be the name of a file: rename it")
        y = np.asarray(list(part[targets[0]]))
        if y.dtype.kind not in "biuf":
            raise DataError(f"'{targets[0]}' holds {y.dtype}, not numbers: number the classes first")
        x = _inputs(part, inputs)
        (folder / f"{name}.safetensors").write_bytes(save({"x": x, "y": np.ascontiguousarray(y)}))
    return {"task": "arrays"}


def _parts(data: Any, client: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the rows of each client with its name; all rows at once if `client` is None."""
    if hasattr(data, "load_partition"):
        yield from _partitions(data)
    elif client is None:
        yield "", data
    else:
        _require_column(data, client)
        _require_owners(data, client)
        owners = np.array([str(cell) for cell in data[client]])
        for name in np.unique(owners).tolist():
            rows = np.flatnonzero(owners == name)
            yield name, data.iloc[rows] if hasattr(data, "iloc") else data.select(rows)


def _partitions(partitioner: Any) -> Iterator[tuple[str, Any]]:
    """Yield each partition that has rows with its number; log which have none."""
    digits = len(str(partitioner.num_partitions - 1))
    empty = []
    for number in range(partitioner.num_partitions):
        part = partitioner.load_partition(number)
        if len(part):
            yield f"{number:0{digits}}", part
        else:
            empty.append(str(number))
    if len(empty) == partitioner.num_partitions:
        raise DataError(f"there are no rows to write: all {len(empty)} partitions are empty")
    if empty:
        log.warning("partitions without rows are left out: %s", ", ".join(empty))


def _frame(part: Any) -> Any:
    """Return rows as a pandas frame, with class labels of a dataset as names."""
    if hasattr(part, "to_csv") and hasattr(part, "iloc"):
        return part
    frame = part.to_pandas()
    for name, feature in getattr(part, "features", {}).items():
        if hasattr(feature, "int2str"):
            names = dict(enumerate(feature.names))
            frame[name] = [names.get(label) for label in frame[name]]
    return frame


def _inputs(part: Any, columns: list[str]) -> NDArray[Any]:
    """Return ``[N, ...]``: the arrays of one column, or the numbers of several side by side."""
    if len(columns) > 1:
        rows = [np.asarray(row) for row in zip(*(list(part[name]) for name in columns), strict=True)]
    else:
        try:
            rows = [_array(cell) for cell in part[columns[0]]]
        except ValueError as error:
            raise DataError(f"'{columns[0]}' holds lists that are not arrays: {error}") from None
    for place, row in enumerate(rows):
        if row.shape != rows[0].shape or row.dtype.kind not in "biuf":
            raise DataError(
                f"row {place} of '{columns[0]}' is {row.dtype} {list(row.shape)}, but inputs are "
                f"numbers of one shape, here {list(rows[0].shape)}"
            )
    x = np.stack(rows)
    return np.ascontiguousarray(x[:, None] if x.ndim == 1 else x)


def _array(cell: Any) -> NDArray[Any]:
    if not hasattr(cell, "getbands"):
        return np.asarray(cell)
    if len(cell.getbands()) == 1 and cell.mode != "P":
        return np.asarray(cell)[None]
    return np.asarray(cell.convert("RGB")).transpose(2, 0, 1)


def _move(draft: Path, place: Path) -> None:
    """Move the draft into place, unless the same data are already there."""
    if not place.exists():
        os.rename(draft, place)
    elif place.is_dir() != draft.is_dir() or _digest(place) != _digest(draft):
        raise UsageError(f"{place} exists and holds other data: remove it, or choose another path")


def _digest(path: Path) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return digest_of_files([file.name for file in files], files)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _columns(part: Any) -> list[str]:
    """Return the column names; refuse data without columns, and dictionaries of data sets."""
    names = getattr(part, "column_names", None)
    names = names if isinstance(names, list) else list(getattr(part, "columns", []))
    if not names or not (hasattr(part, "iloc") or hasattr(part, "select")):
        raise UsageError(f"{type(part).__name__} is not data to write: give {_READS}")
    return names


def _known(data: Any) -> str:
    return ", ".join(map(str, _columns(data)))


def _require_column(part: Any, name: str) -> None:
    columns = _columns(part)
    if name not in columns:
        raise UsageError(f"no column '{name}': {nearest(name, map(str, columns))}")


def _require_owners(part: Any, client: str) -> None:
    """Refuse rows without a client, and data without rows."""
    cells = list(part[client])
    if not cells:
        raise DataError("there are no rows to write")
    for row, cell in enumerate(cells):
        if isinstance(cell, list | dict | np.ndarray):
            raise DataError(f"row {row} of '{client}' is not a single value: each row needs a client")
        # pandas' NA equals nothing, and has no truth value.
        if cell is None or type(cell).__name__ == "NAType" or cell != cell:
            raise DataError(f"row {row} of '{client}' is empty: each row needs a client")


def _require_distinct(names: list[str], targets: list[str]) -> None:
    """Refuse columns that are named twice, and no target."""
    if not targets:
        raise UsageError("target: name a column to predict")
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"column '{name}' is named twice")


def _require_free(part: Any) -> None:
    if CLIENT in part.columns:
        raise UsageError(f"a column is called '{CLIENT}', which names the partition: rename it")
