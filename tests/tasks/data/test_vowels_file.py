"""Utterances: as many as published, and what is refused with the way to fetch the file."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.data.sources import source_named
from fedmeta.tasks.data.vowels_file import read_vowels
from tests.tasks.conftest import real_file
from tests.tasks.data.vowels_writing import FILES, write_utterances


def test_an_utterance_has_its_speaker_and_its_frames(folders: Path) -> None:
    write_utterances(folders)
    found = read_vowels()
    assert len(found) == 2 * 9 * 6
    assert found[7].speaker == "2"
    assert found[7].cepstra.shape == (8, 12)
    np.testing.assert_allclose(found[7].cepstra[3], [201.3 + c for c in range(12)])


def test_the_official_files_have_the_published_utterances() -> None:
    for file in source_named("vowels").files:
        assert file.sum(real_file(file.path)) == file.sha256
    found = read_vowels()
    # 30 in training; in the test as Kudo et al. 1999 list them.
    later = dict(zip("123456789", (31, 35, 88, 44, 29, 24, 40, 50, 29), strict=True))
    assert Counter(one.speaker for one in found) == {name: 30 + n for name, n in later.items()}
    lengths = [len(one.cepstra) for one in found]
    assert (min(lengths), max(lengths)) == (7, 29)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("@data", "@date", "it has no line @data"),
        ("100.0,", "1O0.0,", "could not convert string to float"),
        ("100.0,", "nan,", "a number is not finite"),
        ("100.0,", "", "the series of a line differ in length"),
        (":1\n", ":10\n", "a line has 12 series and the speaker '10'"),
        ("100.0,", ":100.0,", "a line has 13 series"),
    ],
)
def test_a_damaged_file_is_refused_with_the_way_to_fetch_it(
    folders: Path, old: str, new: str, why: str
) -> None:
    path = write_utterances(folders)[0]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=why) as refusal:
        read_vowels()
    assert str(refusal.value).startswith(f"{path} is corrupt or truncated")
    assert "`fedmeta data fetch vowels --folder" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_without_utterances_is_refused(folders: Path) -> None:
    path = write_utterances(folders)[1]
    path.write_text("@data\n")
    with pytest.raises(DataError, match="it has no utterances"):
        read_vowels()
    assert (folders / FILES[1]) == path
