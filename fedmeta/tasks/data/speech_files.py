"""Reads the recordings of the Free Spoken Digit Dataset from a zip file."""

import hashlib
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fedmeta.errors import DataError
from fedmeta.files import one_line, open_file
from fedmeta.tasks.data.archives import BROKEN, require_small

MOST_BYTES = 1 << 26
"""Bytes of the zip file; the official one has 16 million."""
_MOST_RECORDING = 1 << 20

_MEMBER = re.compile(r"(?:.*/)?recordings/(?P<word>\d)_(?P<speaker>[^/_]+)_(?P<take>\d+)\.wav")


class Recording(NamedTuple):
    """A recording: the digit that is said, who says it, and which of the speaker's takes it is."""

    word: str
    speaker: str
    take: int
    member: str


class Recordings:
    """An open zip file of recordings ``recordings/WORD_SPEAKER_TAKE.wav``.

    Attributes:
        listed: The recordings, by speaker, word and take.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        require_small(archive)
        self._archive = archive
        found = []
        for member in archive.namelist():
            if match := _MEMBER.fullmatch(member):
                found.append(Recording(match["word"], match["speaker"], int(match["take"]), member))
        if not found:
            raise ValueError("it holds no recordings/WORD_SPEAKER_TAKE.wav")
        self.listed = sorted(found, key=lambda one: (one.speaker, one.word, one.take))
        if len({one[:3] for one in found}) < len(found):
            raise ValueError("a recording is in it twice")

    def read(self, recording: Recording) -> bytes:
        """Return the WAV file of a recording."""
        with self._archive.open(recording.member) as member:
            data = member.read(_MOST_RECORDING + 1)
        if len(data) > _MOST_RECORDING:
            raise ValueError(f"{recording.member} is larger than {_MOST_RECORDING} bytes")
        return data


@contextmanager
def open_recordings(path: Path, hint: str) -> Iterator[Recordings]:
    """Open a zip file of recordings.

    Args:
        path: The file.
        hint: What to do about a corrupt one.

    Raises:
        DataError: If it is corrupt, or holds no recordings; also while they are read.
    """
    try:
        with open_file(path, MOST_BYTES) as data, zipfile.ZipFile(data) as archive:
            yield Recordings(archive)
    except BROKEN as error:
        reason = one_line(str(error) or type(error).__name__, 300)
        raise DataError(f"{path} is corrupt or truncated ({reason}): {hint}") from None


def sum_of_recordings(path: Path) -> str:
    """Return the SHA-256 of the names and bytes of all recordings, however they are packed.

    Raises:
        DataError: If the file is corrupt, or holds no recordings.
    """
    digest = hashlib.sha256()
    with open_recordings(path, "it cannot be used") as recordings:
        for one in recordings.listed:
            told = hashlib.sha256(recordings.read(one)).hexdigest()
            digest.update(f"{one.word} {one.speaker} {one.take} {told}\n".encode())
    return digest.hexdigest()
