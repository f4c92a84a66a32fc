"""Folders of small drawings, each of which tells its client, class and number by its pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 12


def drawing(client: int, label: int, index: int) -> np.ndarray:
    """``[12, 12]``, dark on white: dots whose places are the digits of the three numbers."""
    pixels = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    for row, place in ((2, client), (5, label), (8, index % 10), (9, index // 10)):
        pixels[row, place + 1] = 0
    return pixels


def told_by(x: np.ndarray) -> tuple[int, int, int]:
    """The client, class and number of an input ``[1, 12, 12]`` with ink 1."""
    client, label, ones, tens = (int(x[0, row].argmax()) - 1 for row in (2, 5, 8, 9))
    return client, label, ones + 10 * tens


def write(root: Path, clients: Sequence[str | None], classes: Sequence[str], images: int = 4) -> Path:
    """Write a folder for each client (None: without clients) and class."""
    for c, client in enumerate(clients):
        for k, label in enumerate(classes):
            folder = root / (client or "") / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(images):
                Image.fromarray(drawing(c, k, i)).save(folder / f"{i}.png")
    return root
