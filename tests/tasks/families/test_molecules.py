"""Molecules: assays, laboratories, and fingerprints by RDKit."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, DataError, MissingDataError
from fedmeta.tasks import Population, build_family, shape_of_tasks, stream
from fedmeta.tasks.data.molecule_files import fingerprints, read_assays
from fedmeta.tasks.families.molecules import Molecules, deal_assays
from tests.tasks.conftest import real_file

ASSAYS = [f"A{k}" for k in range(5)]
ATOMS = ("C", "N", "O", "S", "F", "Cl")


def molecules(count: int = 60) -> list[str]:
    """Chains and rings that differ from each other."""
    return [f"{ATOMS[k % 6]}{'C' * (k // 6 + 1)}{ATOMS[k % 5]}" for k in range(count)]


def write(folder: Path, rows: list[str] | None = None) -> Path:
    """A table of five assays; a molecule is active in assay k if its number divides by k + 2."""
    path = folder / "tox21" / "tox21.csv"
    path.parent.mkdir(exist_ok=True)
    if rows is None:
        results = [
            ",".join("" if i % 11 == 10 else str(int(i % (k + 2) == 0)) for k in range(5))
            for i in range(60)
        ]
        rows = [
            f"{row},T{i},{smiles}"
            for i, (row, smiles) in enumerate(zip(results, molecules(), strict=True))
        ]
    path.write_text("\n".join([",".join([*ASSAYS, "mol_id", "smiles"]), *rows]) + "\n")
    return path


def family(population: Population = Population(2, 0, 3), **options: Any) -> Molecules:  # noqa: B008
    built = build_family("molecules", {"shots": 2, "queries": 3, "bits": 64} | options, population, 0)
    assert isinstance(built, Molecules)
    return built


def test_laboratories_hold_assays_and_the_last_ones_are_for_testing() -> None:
    assert deal_assays(12, 3, Population(4, 2, 3)) == [
        [0, 4],
        [1, 5],
        [2, 6],
        [3],
        [7],
        [8],
        [9],
        [10],
        [11],
    ]
    assert deal_assays(5, 3, Population(1, 0, 2)) == [[0, 1], [2], [3]]


def test_a_task_has_molecules_of_the_clients_assay_with_their_results(folders: Path) -> None:
    write(folders)
    built = family()
    assays = read_assays("tox21")
    for client in range(5):
        batch = built.sample(client, 4, stream(0, client))
        assert batch.support_x.shape == (4, 4, 64)
        assert batch.support_y.tolist() == [[0, 0, 1, 1]] * 4
        measured = assays.results[:, client] >= 0
        others = int(measured.sum()) - 4
        assert batch.query_x.shape == (4, 6 if client < 2 else others, 64)
        active = int((assays.results[:, client] == 1).sum()) - 2
        assert batch.query_y.sum(1).tolist() == [3 if client < 2 else active] * 4


def test_support_and_query_share_no_molecule_and_labels_are_right(folders: Path) -> None:
    write(folders)
    built = family(bits=4096)
    # The number of a molecule instead of its fingerprint.
    built.molecules = torch.arange(60)[:, None].to(torch.uint8)
    results = read_assays("tox21").results
    for client in range(5):
        batch = built.sample(client, 20, stream(1, client))
        for t in range(20):
            support, query = (
                half["x"][t, :, 0].long().tolist() for half in (batch.support, batch.query)
            )
            assert len({*support, *query}) == len(support) + len(query)
            for half, numbers in ((batch.support, support), (batch.query, query)):
                assert half["y"][t].tolist() == results[numbers, client].tolist()


def test_the_shape_is_declared_without_the_data(folders: Path) -> None:
    told = shape_of_tasks("molecules", {"bits": 64})
    write(folders)
    assert told == family().spec
    assert told is not None
    assert (told.objective, told.input_shape, told.outputs) == ("screening", (64,), 2)


def test_graphs_are_of_the_same_molecules_as_fingerprints(folders: Path) -> None:
    write(folders)
    made, drawn = family(features="graph", atoms=20), family(bits=4096)
    graph, ecfp = (built.sample(1, 3, stream(2, "client")) for built in (made, drawn))
    assert shape_of_tasks("molecules", {"features": "graph", "atoms": 20}) == made.spec
    assert made.spec.input_shape == (20, 18)
    for half, other in ((graph.support, ecfp.support), (graph.query, ecfp.query)):
        assert torch.equal(half["y"], other["y"])
        assert half["x"].dtype == torch.float32
        rows = half["x"].flatten(0, 1).to(torch.uint8)
        numbers = [int((made.molecules == row).flatten(1).all(1).nonzero()[0]) for row in rows]
        assert torch.equal(drawn.molecules[numbers].float(), other["x"].flatten(0, 1))


def test_fingerprints_are_cached_and_equal_for_equal_molecules(folders: Path) -> None:
    first = fingerprints(["CCO", "OCC", "c1ccccc1", "not a molecule"], 2, 128)
    again = fingerprints(["CCO", "OCC", "c1ccccc1", "not a molecule"], 2, 128)
    np.testing.assert_array_equal(first, again)
    # Ethanol, written from either end: three atoms, their neighbourhoods, and nothing else.
    np.testing.assert_array_equal(first[0], first[1])
    assert 3 <= first[0].sum() <= 7
    assert not np.array_equal(first[0], first[2])
    assert first[3].sum() == 0
    assert len(list((folders.parent / "cache" / "decoded").iterdir())) == 1


def test_a_molecule_that_cannot_be_read_is_in_no_task(folders: Path) -> None:
    rows = [f"{k % 2},{k % 2},{k % 2},{k % 2},{k % 2},T{k},{s}" for k, s in enumerate(molecules(12))]
    write(folders, [*rows, "1,1,1,1,1,T12,not a molecule"])
    for features in ("ecfp", "graph"):
        assert len(family(test_queries=1, features=features).classes[0][1]) == 6


@pytest.mark.parametrize(
    ("population", "options", "message"),
    [
        (Population(3, 0, 3), {}, "3 training and 0 validation clients, but only 2 assays are for them"),
        (Population(1, 2, 3), {}, "1 training and 2 validation clients, but only 2 assays are for them"),
        (Population(2, 0, 4), {}, "test_clients = 4, but 3 assays are for testing"),
        (Population(2, 0, 3), {"shots": 40}, "data.shots = 40 and data.queries = 3, but assay 'A0' has"),
        (Population(2, 0, 3), {"test_queries": 99}, "data.test_queries = 99, but assay 'A2' has"),
    ],
)
def test_clients_and_shots_that_do_not_fit_are_refused(
    folders: Path, population: Population, options: dict[str, Any], message: str
) -> None:
    write(folders)
    with pytest.raises(ConfigError) as raised:
        family(population, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line does not name assays and smiles"),
        ("A,B\n0,1\n", "its first line does not name assays and smiles"),
        ("A,smiles\n", "it has no rows"),
        ("A,smiles\n2,CC\n", "a result of '2'"),
        ("A,smiles\n0\n", "a line has no molecule"),
        ('A,smiles\n0,"CC\n', "unexpected end of data"),
        ("A,smiles\n0,\xff\n", "codec can't decode"),
    ],
)
def test_a_damaged_table_is_refused_with_the_way_to_fetch_it(
    folders: Path, text: str, message: str
) -> None:
    path = write(folders)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as raised:
        family()
    assert f"{path} is corrupt or truncated" in str(raised.value)
    assert message in str(raised.value)
    assert "fedmeta data fetch tox21" in str(raised.value)


def test_without_the_file_or_rdkit_it_is_said_how_to_get_them(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingDataError, match="`fedmeta data fetch tox21`"):
        family()
    write(folders)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("rdkit"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"RDKit, .* is not installed: pip install 'fedmeta\[chem\]'"):
        family()


@pytest.mark.parametrize(("source", "assays", "count"), [("tox21", 12, 7831), ("sider", 27, 1427)])
def test_the_real_tables_have_their_published_size(source: str, assays: int, count: int) -> None:
    real_file(f"{source}/{source}.csv")
    table = read_assays(source)
    assert table.results.shape == (count, assays)
    assert (table.results[:, -1] == 1).sum() == {"tox21": 423, "sider": 946}[source]
