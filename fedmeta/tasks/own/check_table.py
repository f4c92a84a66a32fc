"""Inspects a table: its columns, its clients, and which clients have enough rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.tasks.data.text_files import visible
from fedmeta.tasks.own.counts import MOST_SKIPPED, note_fewest, span
from fedmeta.tasks.own.finding import Finding
from fedmeta.tasks.own.starter import Choice, Starter, Training
from fedmeta.tasks.own.table_encoding import MOST_VALUES, filled
from fedmeta.tasks.own.table_file import Table, read_table

_CLIENTS = (
    *("client", "user", "patient", "subject", "customer", "speaker", "person", "participant"),
    *("hospital", "site", "centre", "center", "device", "store", "school", "owner", "group", "who"),
)
_TARGETS = ("target", "label", "class", "outcome", "score", "result", "y")
_FEWEST = 4
"""Rows that a client needs: two to adapt to, two to be tested on."""


@dataclass(frozen=True)
class _Column:
    """A column.

    Attributes:
        name: Its name.
        text: Whether it holds anything but numbers.
        values: Number of its different values.
        empty: Number of its empty cells.
    """

    name: str
    text: bool
    values: int
    empty: int

    def __str__(self) -> str:
        what = f"text, {self.values} values" if self.text else f"numbers, {self.values} values"
        return what + (f", {self.empty} empty cells" if self.empty else "")


def check_table(path: Path, skip: Sequence[str] = ()) -> Finding:
    """Inspect a table; `skip` names clients that a first config leaves out.

    Raises:
        DataError: If it cannot be read; the message names the line.
    """
    table = read_table(path)
    columns = [_column(table, name) for name in table.columns]
    client = _client(columns, len(table))
    target = _target(columns, client)
    signs = {"\t": "a tab", "": "none, a Parquet file"}
    lines = [
        ("rows", f"{len(table)}"),
        ("delimiter", signs.get(table.delimiter, table.delimiter)),
        ("decimal", table.decimal),
        *((f"column {one.name}", str(one)) for one in columns),
    ]
    facts = {
        "path": str(path),
        "what": "table",
        "rows": len(table),
        "delimiter": table.delimiter,
        "decimal": table.decimal,
        "columns": {
            one.name: {"text": one.text, "values": one.values, "empty": one.empty} for one in columns
        },
        "client": client,
        "target": target,
        "refused": [],
        "notes": [],
    }
    if client:
        rows = Counter(table.columns[client])
        facts["clients"] = dict(rows)
        few = min(rows, key=lambda name: (rows[name], name))
        each = f"{span(rows.values())} rows each{note_fewest(few, rows.values())}"
        lines.append(("clients", f"{len(rows)} by '{client}', of {each}"))
    lines.append(("target", f"'{target}', a guess" if target else "none"))
    return Finding(
        facts, tuple(lines), (), (), partial(_starter, table, columns, (client, target), skip)
    )


def _column(table: Table, name: str) -> _Column:
    cells = table.columns[name]
    full = filled(cells)
    values = {cell for cell, has in zip(cells, full, strict=True) if has}
    return _Column(name, table.is_text(name), len(values), int((~full).sum()))


def _client(columns: list[_Column], rows: int) -> str | None:
    """Return the column that probably names the clients: by its name, or as text that repeats."""
    repeating = [one for one in columns if 2 <= one.values <= rows // 2 and not one.empty]
    for word in _CLIENTS:
        for one in repeating:
            if word in one.name.lower().replace("_", " ").split() or one.name.lower().startswith(word):
                return one.name
    return next((one.name for one in repeating if one.text and one.values > 2), None)


def _target(columns: list[_Column], client: str | None) -> str | None:
    others = [one for one in columns if one.name != client and one.values > 1]
    for word in _TARGETS:
        for one in others:
            if word in one.name.lower().replace("_", " ").split():
                return one.name
    return others[-1].name if others else None


def _starter(
    table: Table,
    columns: list[_Column],
    guessed: tuple[str | None, str | None],
    left_out: Sequence[str],
) -> Starter:
    client, target = guessed
    if client is None or target is None:
        what = "name the client of a row" if client is None else "hold what to predict"
        raise DataError(
            f"{table.path}: no column seems to {what}: set data.client and data.target yourself; "
            f"its columns are {', '.join(table.columns)}"
        )
    known = {one.name: one for one in columns}
    classes = known[target].text or known[target].values == 2
    tasks = _tasks(table, client, target, classes, left_out)
    features, data = _features(table, columns, client, target)
    about = (
        f"{visible(table.path.stem)}: {len(table)} rows of {len(tasks.kept)} clients; predict {target}"
    )
    keys = (
        Choice("description", about),
        Choice("task", "table"),
        Choice("algorithm", "maml", "Learns initial weights that adapt to a new client in a few steps."),
        Choice("model", "mlp", "Fully connected: the network for plain numbers."),
        *Training.of(len(tasks.kept)).keys(300, f"One for each value of '{client}' in use."),
    )
    shape = [
        Choice("path", str(table.path), "Relative to the folder in which fedmeta is started."),
        Choice("client", client, "The client of each row: a guess, so check it."),
        Choice(
            "target", target, "What to predict: a guess, so check it. A list of columns: a task each."
        ),
        Choice(
            "objective",
            "classification" if classes else "regression",
            f"'{target}' holds {known[target]}.",
        ),
        *(
            [Choice("ways", tasks.ways, "Classes per task: every client has at least as many.")]
            if classes
            else []
        ),
        Choice(
            "shots",
            tasks.rows // 2,
            f"Rows to adapt to, and (queries) to test on{', of each class' if classes else ''}: "
            f"client '{tasks.fewest}' has the fewest.",
        ),
        Choice("queries", tasks.rows - tasks.rows // 2),
        Choice("features", features, "What to predict from."),
        *data,
        *([Choice("skip", tasks.skip, "Left out: too few rows for a task.")] if tasks.skip else []),
    ]
    tables = {
        "data": shape,
        "network": [Choice("hidden", [40, 40])],
        "learner": [
            Choice("inner_lr", 0.05, "Step size on a client's own rows; try 0.01 and 0.2."),
            Choice("inner_steps", 3),
        ],
        "server": [Choice("optimizer", "Adam"), Choice("lr", 0.003)],
    }
    return Starter(f"{about}.", keys, tables)


@dataclass(frozen=True)
class _Tasks:
    """Tasks for which clients have enough rows.

    Attributes:
        kept: The clients.
        skip: The others.
        ways: Classes per task.
        rows: Rows per task, of each class in classification.
        fewest: The client with the fewest rows.
    """

    kept: list[str]
    skip: list[str]
    ways: int
    rows: int
    fewest: str


def _tasks(table: Table, client: str, target: str, classes: bool, left_out: Sequence[str]) -> _Tasks:
    cells = table.columns[target]
    counts: dict[str, Counter[str]] = {name: Counter() for name in sorted(set(table.columns[client]))}
    for name, cell, full in zip(table.columns[client], cells, filled(cells), strict=True):
        if full:
            counts[name][cell if classes else ""] += 1
    least, ways = (2, 2) if classes else (_FEWEST, 1)
    # The size of each client's classes, largest first.
    sizes = {name: [n for _, n in own.most_common() if n >= least] for name, own in counts.items()}
    kept = [name for name, own in sizes.items() if len(own) >= ways and name not in left_out]
    skip = [name for name in {**counts, **dict.fromkeys(left_out)} if name not in kept]
    if not kept or len(skip) > MOST_SKIPPED:
        raise DataError(
            f"{table.path}: {len(skip)} of {len(counts)} clients by '{client}' have too few rows with "
            f"'{target}' for a task, such as '{skip[0]}'"
        )
    ways = min(len(sizes[name]) for name in kept)
    fewest = min(kept, key=lambda name: (sizes[name][ways - 1], name))
    return _Tasks(kept, skip, ways, min(sizes[fewest][ways - 1], 20), fewest)


def _features(
    table: Table, columns: list[_Column], client: str, target: str
) -> tuple[list[str], list[Choice]]:
    others = [one for one in columns if one.name not in (client, target) and one.values > 1]
    numbers = [one for one in others if not one.text]
    categories = [one for one in others if one.text and one.values <= MOST_VALUES]
    used = [one.name for one in others if one in numbers or one in categories]
    if not used:
        raise DataError(f"{table.path} has no columns to predict '{target}' from")
    choices = []
    if categories:
        names = [one.name for one in categories]
        choices.append(Choice("categories", names, "Text: an input of 0 or 1 for each value."))
    if empty := [one.name for one in numbers if one.empty]:
        why = f"An empty cell of numbers, as in '{empty[0]}', counts as the training clients' mean."
        choices.append(Choice("empty", "mean", why))
    return used, choices
