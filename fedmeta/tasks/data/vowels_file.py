"""Reads the utterances of Japanese Vowels: speakers and cepstra, in the ``.ts`` format of aeon."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import open_file
from fedmeta.tasks.data.sources import how_to_fetch, locate, sha256_of, source_named

SOURCE = "vowels"
CEPSTRA = 12
SPEAKERS = tuple(str(number) for number in range(1, 10))
MOST_BYTES = 1 << 23
"""Bytes of a file; the larger official one has 0.6 million."""
MOST_FRAMES = 1000


@dataclass(frozen=True)
class Utterance:
    """An utterance: its speaker, and its cepstra ``[frames, 12]``."""

    speaker: str
    cepstra: NDArray[np.float64]


def locate_vowels() -> list[Path]:
    """Return the paths of both files; `MissingDataError` if one is not here."""
    return [locate(file.path, SOURCE) for file in source_named(SOURCE).files]


def read_vowels() -> tuple[Utterance, ...]:
    """Return the utterances of both files, in their order.

    Raises:
        DataError: If a file is missing or corrupt.
    """
    return _parsed(tuple((path, sha256_of(path, MOST_BYTES)) for path in locate_vowels()))


@lru_cache(maxsize=1)
def _parsed(files: tuple[tuple[Path, str], ...]) -> tuple[Utterance, ...]:
    found: list[Utterance] = []
    for path, _ in files:
        try:
            with open_file(path, MOST_BYTES) as file:
                lines = file.read().decode("utf-8").splitlines()
            if "@data" not in lines:
                raise ValueError("it has no line @data")
            first = lines.index("@data") + 1
            rows = [_utterance(line) for line in lines[first:] if line]
            if not rows:
                raise ValueError("it has no utterances")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise DataError(
                f"{path} is corrupt or truncated ({error}): {how_to_fetch(SOURCE, corrupt=path)}"
            ) from None
        found += rows
    return tuple(found)


def _utterance(line: str) -> Utterance:
    """Parse a line: a series for each cepstrum, then the speaker, with colons between them."""
    *series, speaker = line.split(":")
    if speaker not in SPEAKERS or len(series) != CEPSTRA:
        raise ValueError(f"a line has {len(series)} series and the speaker {speaker[:20]!r}")
    rows = [[float(value) for value in one.split(",")] for one in series]
    if len({len(row) for row in rows}) > 1 or len(rows[0]) > MOST_FRAMES:
        raise ValueError("the series of a line differ in length, or are too long")
    cepstra = np.array(rows).T
    if not np.isfinite(cepstra).all():
        raise ValueError("a number is not finite")
    return Utterance(speaker, cepstra)
