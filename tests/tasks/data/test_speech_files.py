"""Recordings in a zip file: which there are, what they are known by, and what is refused."""

import zipfile
from pathlib import Path

import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.data.sources import source_named
from fedmeta.tasks.data.speech_files import open_recordings, sum_of_recordings
from tests.tasks.conftest import real_file
from tests.tasks.data.speech_writing import FILE, wav, write_recordings


def test_recordings_are_listed_by_speaker_word_and_take(tmp_path: Path) -> None:
    path = write_recordings(tmp_path, speakers=("bob", "anna"), takes=11, words=2)
    with open_recordings(path, "") as recordings:
        listed = [(one.speaker, one.word, one.take) for one in recordings.listed]
        assert recordings.read(recordings.listed[0]) == wav(203)
    assert listed == [
        (who, word, take) for who in ("anna", "bob") for word in "01" for take in range(11)
    ]


def test_the_sum_is_that_of_the_recordings_not_of_the_packing(tmp_path: Path) -> None:
    first = sum_of_recordings(write_recordings(tmp_path / "a"))
    assert sum_of_recordings(write_recordings(tmp_path / "b", root="digits-1.0/")) == first
    assert sum_of_recordings(write_recordings(tmp_path / "c", takes=3)) != first
    assert sum_of_recordings(write_recordings(tmp_path / "d", speakers=("anna", "bob", "zoë"))) != first


def test_the_official_recordings_have_the_published_sum() -> None:
    (official,) = source_named("speech").files
    path = real_file(FILE)
    assert official.sum(path) == official.sha256
    with open_recordings(path, "") as recordings:
        assert len(recordings.listed) == 3000


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"recordings/ten_anna_0.wav": b"x"}, "it holds no recordings/WORD_SPEAKER_TAKE.wav"),
        (
            {"recordings/1_anna_0.wav": b"x", "a/recordings/1_anna_0.wav": b"y"},
            "a recording is in it twice",
        ),
        ({"../recordings/1_anna_0.wav": b"x"}, "a member has the name"),
        ({"recordings/1_anna_0.wav": bytes((1 << 20) + 1)}, "is larger than 1048576 bytes"),
    ],
)
def test_a_zip_that_is_not_of_recordings_is_refused_in_one_line(
    members: dict[str, bytes], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "recordings.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(DataError, match=why) as refusal:
        sum_of_recordings(path)
    assert "\n" not in str(refusal.value)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = write_recordings(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="corrupt or truncated"), open_recordings(path, "fetch it"):
        pass
    path.write_bytes(b"")
    with pytest.raises(DataError, match="fetch it"), open_recordings(path, "fetch it"):
        pass
