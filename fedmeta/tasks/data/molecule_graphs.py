"""Turns molecules into graphs of atoms and bonds by RDKit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmeta.tasks.data.molecule_files import describe
from fedmeta.tasks.graph import GraphShape

ELEMENTS = ("C", "N", "O", "S", "F", "Cl", "Br", "I", "P", "Si", "B", "Na")
"""Elements with their own category; all others share one."""
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
"""Likewise bond types."""
_DEGREE, _HYDROGENS, _CHARGE = 6, 4, 2

MOLECULE = GraphShape(
    values=(len(ELEMENTS) + 2, _DEGREE + 1, _HYDROGENS + 1, 2 * _CHARGE + 1, 2, 2),
    neighbours=_DEGREE,
    edges=len(BONDS) + 1,
)
"""Properties of an atom: element, heavy neighbours, hydrogens, charge, whether aromatic or in a ring.

They are those that fingerprints start from (Rogers and Hahn 2010), and aromaticity. Larger numbers of
neighbours or hydrogens and charges beyond ±2 count as the largest; an atom's bonds after the sixth are
left out.
"""


def graphs(smiles: Sequence[str], atoms: int) -> NDArray[np.uint8]:
    """Return the molecules' graphs ``[N, atoms, 18]``, see `MOLECULE`, from the cache if they are there.

    Hydrogens are not nodes. Of a molecule with more than `atoms` atoms, at most 255, only the first ones
    in its SMILES text are kept, and the bonds among them. A molecule that RDKit cannot read
    has no atoms.

    Raises:
        DataError: If RDKit is not installed, or the cache has no room.
    """

    def graph(molecule: Any) -> NDArray[np.uint8]:
        rows = np.zeros((atoms, MOLECULE.columns), np.uint8)
        for atom in list(molecule.GetAtoms())[:atoms]:
            rows[atom.GetIdx(), : len(MOLECULE.values)] = _properties(atom)
        _connect(rows, molecule)
        return rows

    return describe(smiles, "graph", str(atoms), (atoms, MOLECULE.columns), graph)


def _properties(atom: Any) -> tuple[int, ...]:
    symbol = atom.GetSymbol()
    charge = min(max(atom.GetFormalCharge(), -_CHARGE), _CHARGE)
    return (
        ELEMENTS.index(symbol) + 1 if symbol in ELEMENTS else len(ELEMENTS) + 1,
        min(atom.GetDegree(), _DEGREE),
        min(atom.GetTotalNumHs(), _HYDROGENS),
        charge + _CHARGE,
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    )


def _connect(rows: NDArray[np.uint8], molecule: Any) -> None:
    """Write the bonds among the atoms that have a row."""
    first = len(MOLECULE.values)
    bonds = [0] * len(rows)
    for bond in molecule.GetBonds():
        ends = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        if max(ends) >= len(rows) or max(bonds[end] for end in ends) == MOLECULE.neighbours:
            continue
        name = str(bond.GetBondType())
        kind = BONDS.index(name) if name in BONDS else len(BONDS)
        for one, other in (ends, ends[::-1]):
            column = first + bonds[one]
            rows[one, column], rows[one, column + MOLECULE.neighbours] = other + 1, kind
            bonds[one] += 1
