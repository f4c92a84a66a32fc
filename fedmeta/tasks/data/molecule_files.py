"""Reads tables of molecules and assays, and computes the molecules' fingerprints by RDKit."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import open_file
from fedmeta.tasks.data.sources import how_to_fetch, locate, sha256_of, source_named
from fedmeta.tasks.own.decoded import Writer, decoded

MOST_BYTES = 1 << 23
"""Bytes of a table; the larger official one has 0.5 million."""
INACTIVE, ACTIVE, UNMEASURED = 0, 1, -1

_SMILES = "smiles"
_NO_ASSAY = ("mol_id", _SMILES)
_RESULTS = {"": UNMEASURED, "0": INACTIVE, "0.0": INACTIVE, "1": ACTIVE, "1.0": ACTIVE}


@dataclass(frozen=True)
class Assays:
    """Which molecules are active in which assays.

    Attributes:
        names: Names of the ``A`` assays, as in the file.
        results: ``[N, A]``: 1 active, 0 inactive, -1 not measured.
        smiles: The ``N`` molecules.
    """

    names: tuple[str, ...]
    results: NDArray[np.int8]
    smiles: tuple[str, ...]


def locate_molecules(source: str) -> Path:
    """Return the path of the table of ``tox21`` or ``sider``; `MissingDataError` if it is not here."""
    return locate(source_named(source).files[0].path, source)


def read_assays(source: str) -> Assays:
    """Return the assays of ``tox21`` or ``sider``.

    Raises:
        DataError: If the file is missing or corrupt.
    """
    path = locate_molecules(source)
    return _parsed(path, sha256_of(path, MOST_BYTES), source)


@lru_cache(maxsize=2)
def _parsed(path: Path, sha256: str, source: str) -> Assays:  # noqa: ARG001
    try:
        with open_file(path, MOST_BYTES) as file:
            text = file.read().decode("utf-8")
        rows = csv.DictReader(io.StringIO(text), strict=True)
        names = tuple(name for name in rows.fieldnames or () if name not in _NO_ASSAY)
        if not names or _SMILES not in (rows.fieldnames or ()):
            raise ValueError("its first line does not name assays and smiles")
        table = [(row[_SMILES], [_RESULTS[row[name]] for name in names]) for row in rows]
        if not table:
            raise ValueError("it has no rows")
        if any(smiles is None for smiles, _ in table):
            raise ValueError("a line has no molecule")
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, KeyError) as error:
        reason = f"a result of {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is corrupt or truncated ({reason}): {how_to_fetch(source, corrupt=path)}"
        ) from None
    return Assays(
        names, np.array([row for _, row in table], dtype=np.int8), tuple(smiles for smiles, _ in table)
    )


def fingerprints(smiles: Sequence[str], radius: int, bits: int) -> NDArray[np.uint8]:
    """Return extended-connectivity fingerprints ``[N, bits]``, 0 or 1, from the cache if they are there.

    Rogers and Hahn 2010, "Extended-Connectivity Fingerprints": with radius 2, ECFP4. A molecule that
    RDKit cannot read has no bit set.

    Raises:
        DataError: If RDKit is not installed, or the cache has no room.
    """
    made = _rdkit().Chem.rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    return describe(smiles, "ecfp", f"{radius}-{bits}", (bits,), made.GetFingerprintAsNumPy)


def describe(
    smiles: Sequence[str],
    name: str,
    options: str,
    shape: tuple[int, ...],
    row: Callable[[Any], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """Return a description of each molecule ``[N, *shape]``, from the cache if it is there.

    Args:
        smiles: The molecules.
        name: What describes them, in the cache.
        options: All that a description depends on besides the molecule.
        shape: Shape of a description.
        row: Describes an RDKit molecule. A molecule that RDKit cannot read is described by zeros.

    Raises:
        DataError: If RDKit is not installed, or the cache has no room.
    """
    rdkit = _rdkit()

    def fill(writer: Writer) -> dict[str, int]:
        quiet = rdkit.rdBase.BlockLogs()  # RDKit writes a line on stderr for each odd molecule
        for place, text in enumerate(smiles):
            molecule = rdkit.Chem.MolFromSmiles(text)
            writer.put(place, np.zeros(shape, np.uint8) if molecule is None else row(molecule))
        del quiet
        return {}

    digest = hashlib.sha256("\n".join(smiles).encode()).hexdigest()[:16]
    key = f"{name}-{digest}-{options}-rdkit-{rdkit.rdBase.rdkitVersion}"
    return decoded(key, (len(smiles), *shape), np.uint8, fill)[0]


def _rdkit() -> Any:
    try:
        import rdkit
        import rdkit.Chem.rdFingerprintGenerator
    except ImportError:
        raise DataError(
            "RDKit, which reads molecules, is not installed: pip install 'fedmeta[chem]'"
        ) from None
    return rdkit
