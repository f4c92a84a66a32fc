"""Graphs of molecules: by hand, and compared with RDKit's matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.tasks.data.molecule_files import read_assays
from fedmeta.tasks.data.molecule_graphs import MOLECULE, graphs
from tests.tasks.conftest import real_file

Chem = pytest.importorskip("rdkit.Chem")
pytestmark = pytest.mark.usefixtures("folders")


def test_acetate_with_sodium_by_hand(folders: Path) -> None:
    found = graphs(["CC(=O)[O-].[Na+]"], 6)[0]
    # Element (carbon 1, oxygen 3, sodium 12), neighbours, hydrogens, charge + 2, aromatic, in a ring.
    assert found[:, :6].tolist() == [
        [1, 1, 3, 2, 0, 0],
        [1, 3, 0, 2, 0, 0],
        [3, 1, 0, 2, 0, 0],
        [3, 1, 0, 1, 0, 0],
        [12, 0, 0, 3, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    # Numbers of the neighbours from 1, and the types of the bonds: single 0, double 1.
    assert found[:4, 6:9].tolist() == [[2, 0, 0], [1, 3, 4], [2, 0, 0], [2, 0, 0]]
    assert found[:4, 12:15].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert not found[4:, 6:].any()
    assert len(list((folders.parent / "cache" / "decoded").iterdir())) == 1


@pytest.mark.parametrize(
    "smiles", ["c1ccc2c(c1)C(=O)N(C2=O)CC#N", "O=S(=O)(O)c1ccccc1", "FS(F)(F)(F)(F)F"]
)
def test_bonds_are_those_of_rdkit_s_adjacency_matrix(smiles: str) -> None:
    rows = graphs([smiles], 20)[0]
    found = np.zeros((20, 20))
    orders = np.array([1.0, 2.0, 3.0, 1.5])
    for atom, row in enumerate(rows):
        for neighbour, bond in zip(row[6:12], row[12:], strict=True):
            if neighbour:
                found[atom, neighbour - 1] += orders[bond]
    molecule = Chem.MolFromSmiles(smiles)
    count = molecule.GetNumAtoms()
    np.testing.assert_array_equal(found[:count, :count], Chem.GetAdjacencyMatrix(molecule, useBO=True))
    assert not found[count:].any()
    assert not rows[count:].any()


def test_of_a_large_molecule_the_first_atoms_are_there() -> None:
    whole, cut = graphs(["CCO", "CCOC", "OO"], 4), graphs(["CCO", "CCOC", "OO"], 3)
    # The oxygen keeps its count of two neighbours but not the bond to the atom that is cut off.
    assert cut[1, 2].tolist() == [3, 2, *whole[1, 2, 2:6].tolist(), 2, *[0] * 11]
    np.testing.assert_array_equal(cut[1, :2], whole[1, :2])
    np.testing.assert_array_equal(cut[0], whole[0, :3])


def test_a_seventh_bond_and_what_is_not_listed() -> None:
    rows = graphs(["Cl[Fe](Cl)(Cl)(Cl)(Cl)(Cl)Cl", "[U+4]", "not a molecule"], 8)
    assert (rows[0, 1, 1], rows[0, 1, 6:12].tolist()) == (6, [1, 3, 4, 5, 6, 7])
    # Neither end has it.
    assert rows[0, 7, 6:].tolist() == [0] * 12
    assert rows[1, 0, :4].tolist() == [13, 0, 0, 4]
    assert not rows[2].any()


@pytest.mark.parametrize(("source", "larger"), [("tox21", 65), ("sider", 100)])
def test_the_real_molecules_fit(monkeypatch: pytest.MonkeyPatch, source: str, larger: int) -> None:
    path = real_file(f"{source}/{source}.csv")
    monkeypatch.setenv("FEDMETA_DATA", str(path.parents[1]))
    smiles = read_assays(source).smiles
    wide = graphs(smiles, 65)
    assert MOLECULE.holds(torch.from_numpy(np.array(wide)))
    # docs/results.md tells how many lose atoms.
    assert int(wide[:, 64].any(1).sum()) == larger
