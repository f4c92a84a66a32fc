"""A zip file of recordings in the official layout, of tones whose pitch tells the word."""

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from tests.tasks.own.sounds import RATE, tone

FILE = "fsdd/recordings.zip"
SPEAKERS = ("anna", "bob", "zoe")


def wav(pitch: float) -> bytes:
    """A 16-bit file of a tone."""
    out = BytesIO()
    wavfile.write(out, RATE, (tone(pitch) * 32767).astype(np.int16))
    return out.getvalue()


def write_recordings(
    folder: Path, speakers: Sequence[str] = SPEAKERS, takes: int = 4, words: int = 10, root: str = ""
) -> Path:
    """Write `takes` recordings of each word by each speaker: word k is at 200 (k + 1) Hz."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{root}README.md", "spoken digits")
        for s, speaker in enumerate(speakers):
            for k in range(words):
                for i in range(takes):
                    archive.writestr(
                        f"{root}recordings/{k}_{speaker}_{i}.wav", wav(200 * (k + 1) + 3 * s + i)
                    )
    return path
