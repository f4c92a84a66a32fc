"""Writes small files in the layout of the MNIST images."""

import gzip
from pathlib import Path

import numpy as np

FILE = "mnist/mnist_5k.csv.gz"


def write_mnist(folder: Path, each: int = 40, seed: int = 0) -> np.ndarray:
    """Write `each` images per digit into a data folder; return the rows, digit last, as written."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (10 * each, 785))
    rows[:, -1] = rng.permutation(np.repeat(np.arange(10), each))
    write_rows(folder / FILE, rows)
    return rows


def write_rows(path: Path, rows: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    path.write_bytes(gzip.compress(text.encode() + b"\n", 1, mtime=0))
