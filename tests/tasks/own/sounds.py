"""Folders of tones, each of which tells its client by its length and its class by its pitch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import wavfile

RATE = 8_000


def tone(pitch: float, seconds: float = 0.2, rate: int = RATE) -> np.ndarray:
    """A sine in [-0.5, 0.5]."""
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def write(root: Path, clients: Sequence[str], classes: Sequence[str], sounds: int = 3) -> Path:
    """Write 16-bit files for each client and class: class k is at 300 (k + 1) Hz."""
    for c, client in enumerate(clients):
        for k, label in enumerate(classes):
            folder = root / client / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(sounds):
                samples = tone(300 * (k + 1) + 5 * c + i)
                wavfile.write(folder / f"{i}.wav", RATE, (samples * 32767).astype(np.int16))
    return root
