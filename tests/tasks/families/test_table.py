"""A user's own table: rows, scales and labels by hand, and refusals that name the line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import FedmetaError
from fedmeta.tasks import Population, build_family, data_digest, stream
from fedmeta.tasks.families.table import Table

OPTIONS: dict[str, Any] = {"path": "own.csv", "client": "who", "target": "y", "shots": 2, "queries": 1}


def family(population: Population = Population(2, 0, 1), seed: int = 0, **options: Any) -> Table:  # noqa: B008
    built = build_family("table", OPTIONS | options, population, seed)
    assert isinstance(built, Table)
    return built


def rows(clients: int = 3, each: int = 4) -> list[list[str]]:
    """Names and rows: y = 100 client + row, a = 10 client + row, b = a number with a fraction."""
    made = [["who", "a", "b", "y"]]
    for c in range(clients):
        made += [[f"k{c}", f"{10 * c + r}", f"{c}.{r}", f"{100 * c + r}"] for r in range(each)]
    return made


def write(
    here: Path, table: list[list[str]], sep: str = ",", end: str = "\n", name: str = "own.csv"
) -> Path:
    path = here / name
    path.write_bytes("".join(sep.join(row) + end for row in table).encode())
    return path


def test_a_task_is_rows_of_one_client_on_the_scale_of_the_training_clients(here: Path) -> None:
    write(here, rows())
    built = family()
    training = [int(name[1]) for name in built.names[:2]]
    y = np.array([100 * c + r for c in training for r in range(4)], dtype=float)
    a = np.array([10 * c + r for c in training for r in range(4)], dtype=float)
    for client, name in enumerate(built.names):
        tasks = built.sample(client, 30, stream(client))
        assert tasks.support_x.shape == (30, 2, 2)
        assert tasks.query_y.shape == (30, 1, 1)
        x = torch.cat([tasks.support_x, tasks.query_x], 1)[..., 0].double() * a.std() + a.mean()
        t = torch.cat([tasks.support_y, tasks.query_y], 1)[..., 0].double() * y.std() + y.mean()
        c = int(name[1])
        assert set(t.round().long().flatten().tolist()) == {100 * c + r for r in range(4)}
        torch.testing.assert_close(t - 100 * c, x - 10 * c, atol=1e-3, rtol=0)
        assert all(len(set(row)) == 3 for row in t.round().tolist())


@pytest.mark.parametrize(
    ("sep", "end", "comma", "mark"),
    [(";", "\r\n", True, True), ("\t", "\n", False, False), ("|", "\r", True, False)],
)
def test_other_signs_line_ends_and_a_mark_read_the_same(
    sep: str, end: str, comma: bool, mark: bool, here: Path
) -> None:
    write(here, rows())
    first = family().sample(0, 3, stream(0))
    table = [[cell.replace(".", ",") if comma else cell for cell in row] for row in rows()]
    path = write(here, table, sep, end, "other.csv")
    if mark:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    again = family(path="other.csv").sample(0, 3, stream(0))
    assert torch.equal(first.support_x, again.support_x)
    assert torch.equal(first.query_y, again.query_y)


def test_classes_keep_their_label_and_each_target_is_a_task(here: Path) -> None:
    table = [["who", "a", "ill", "fed"]]
    for c in range(3):
        table += [
            [f"k{c}", f"{8 * c + r}", "yes" if r % 2 else "no", "full" if r < 4 else ""]
            for r in range(8)
        ]
        table[-4][3] = table[-3][3] = table[-2][3] = "hungry"
    write(here, table)
    built = family(Population(3), target=["ill", "fed"], shots=2, queries=1, categories=[])
    assert built.classification
    assert built.spec.outputs == 2
    tasks = built.sample(0, 40, stream(3))
    assert tasks.support_y.shape == (40, 4)
    scale = built.encoder.numbers["a"]
    seen = set()
    for t in range(40):
        row = (tasks.query_x[t, :, 0].double() * scale.deviation + scale.mean).round().long() % 8
        ill = [int(r % 2 == 1) for r in row.tolist()]
        hungry = [int(r >= 4) for r in row.tolist()]
        labels = tasks.query_y[t].tolist()
        seen.add((labels == ill, labels == hungry))
    assert {(True, False), (False, True)} <= seen
    assert (False, False) not in seen


def test_categories_are_those_of_training_clients_and_an_empty_cell_is_the_mean(here: Path) -> None:
    table = [["who", "a", "colour", "y"]]
    for c in range(3):
        table += [[f"k{c}", "" if r == 0 else f"{r}", f"c{c}", f"{r}"] for r in range(4)]
    write(here, table)
    built = family(categories=["colour"], empty="mean")
    assert built.spec.input_shape == (3,)
    assert len(built.encoder.categories["colour"]) == 2
    held = built.sample(2, 20, stream(0))
    assert not held.support_x[..., 1:].any()
    assert built.sample(0, 20, stream(0)).support_x[..., 1:].sum(-1).eq(1).all()
    assert (held.support_x[..., 0] == 0).any()


def test_a_cell_of_any_client_changes_the_digest_and_other_rows_do_not_move(here: Path) -> None:
    write(here, rows())

    def digest() -> str | None:
        return data_digest("table", OPTIONS, Population(3), family)

    first = digest()
    table = rows()
    table[5][1] = "77"
    write(here, table)
    assert digest() != first


def spoiled(name: str, here: Path) -> dict[str, Any]:
    table, options = rows(), CHANGES.get(name, {})
    text = {
        "no rows": "who,a,y\n",
        "one column": "who\nk0\n",
        "empty": " \n",
        "long row": "who,a,y\nk0,1,2\nk0,1,2,3\n",
        "short row": "who,a,y\nk0,1,2\n\nk0,1\n",
        "twice": "who,a,a,y\nk0,1,2,3\n",
        "no name": "who,,y\nk0,1,2\n",
        "open quote": 'who,a,y\nk0,"1,2\nk0,1,2\n',
        "thousands": 'who,a,y\nk0,"1,234",2\n',
        "both signs": "who;a;y\nk0;1,5;2\nk0;1.5;2\n",
        "binary": "who,a,y\nk\0,1,2\n",
    }.get(name)
    if text is not None:
        (here / "own.csv").write_text(text)
        return options
    if name == "bad bytes":
        (here / "own.csv").write_bytes(b"who,a,y\nk\xc3\xa9,1,2\nk\xff,1,2\n")
        return options
    changed = {
        "text cell": (3, 1, "x1"),
        "empty cell": (3, 1, ""),
        "no client": (4, 0, ""),
        "infinite": (2, 1, "1e999"),
        "text target": (2, 3, "high"),
        "decimal": (3, 1, "3,5"),
    }
    if name in changed:
        row, column, cell = changed[name]
        table[row][column] = f'"{cell}"' if "," in cell else cell
    write(here, table)
    return options


CHANGES: dict[str, dict[str, Any]] = {
    "unknown client": {"client": "whoo"},
    "unknown target": {"target": ["z"]},
    "unknown feature": {"features": ["a", "c"]},
    "client as feature": {"features": ["a", "who"]},
    "no features": {"features": []},
    "no target": {"target": []},
    "target twice": {"target": ["y", "y"]},
    "few rows": {"shots": 4},
    "few rows held out": {"test_queries": 9},
    "many clients": {},
    "skip nobody": {"skip": ["k9"]},
    "skip too many": {"skip": ["k0"]},
    "too many classes": {"objective": "classification", "ways": 20},
    "text target": {"objective": "regression"},
    "strange category": {"categories": ["y"]},
    "decimal": {"decimal": "."},
    "a folder": {"path": "."},
    "nowhere": {"path": "own.cvs"},
    "parquet": {"path": "own.parquet"},
    "delimiter": {"delimiter": "x"},
}
CASES = {
    "no rows": "own.csv has no rows",
    "one column": "its first line 'who' is not names",
    "empty": "own.csv is empty",
    "long row": r"line 3: 4 cells, but 3 columns have names",
    "short row": r"line 4: 2 cells, but 3",
    "twice": "two columns called 'a'",
    "no name": "column 2 has no name",
    "open quote": "line 3: unexpected end of data",
    "thousands": "line 2: a number with a comma",
    "both signs": "line 2 has a decimal comma and line 3 a decimal point",
    "binary": "holds zero bytes",
    "bad bytes": "line 3 has bytes that cannot be decoded",
    "text cell": r"line 4: a is 'x1', not a number: .*data\.categories",
    "empty cell": r"line 4: a is empty: fill it.*data\.empty",
    "no client": "line 5: who is empty: every row needs",
    "infinite": "line 3: a is '1e999', not a number",
    "text target": r"line 3: y is 'high', not a number",
    "decimal": "line 4: a is '3,5', not a number",
    "unknown client": r"data\.client: own\.csv has no column 'whoo': did you mean 'who'",
    "unknown target": r"data\.target: own\.csv has no column 'z'",
    "unknown feature": r"data\.features: own\.csv has no column 'c'",
    "client as feature": r"data\.features: 'who' is the client or a target",
    "no features": "no columns besides",
    "no target": r"data\.target: name one column",
    "target twice": r"data\.target: name one column",
    "few rows": r"shots \+ data\.queries = 4 \+ 1, but client 'k\d' has 4 rows with 'y'.*data\.skip",
    "few rows held out": r"data\.test_queries = 2 \+ 9, but client",
    "many clients": "clients = 5, but own.csv has 3 clients: set clients to 3",
    "skip nobody": r"data\.skip: own\.csv has no client 'k9'",
    "skip too many": "clients = 3, but own.csv has 2",
    "too many classes": r"data\.ways = 20, but 'y' has 12 classes",
    "strange category": r"data\.categories: 'y' is the client or a target",
    "a folder": r"data\.path: \. is not a file",
    "nowhere": r"nothing at 'own\.cvs': did you mean 'own\.csv'",
    "parquet": "Parquet needs pyarrow: pip install|is not a readable Parquet file",
    "delimiter": r"data\.delimiter: must be",
}


@pytest.mark.parametrize("name", CASES)
def test_unusable_input_is_refused_in_one_line(name: str, here: Path, tmp_path: Path) -> None:
    options = spoiled(name, here)
    (here / "own.parquet").write_bytes(b"PAR1")
    with pytest.raises(FedmetaError, match=CASES[name]) as caught:
        family(Population(5) if name == "many clients" else Population(2, 0, 1), **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()
