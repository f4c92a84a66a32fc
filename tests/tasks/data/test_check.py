"""`fedmeta data check` on folders and texts."""

from pathlib import Path

import numpy as np
import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.data.check import check
from tests.tasks.image_writing import png, tiff


def page(top: int, side: int = 8) -> np.ndarray:
    """Dark ink on light paper."""
    pixels = np.full((side, side), top, dtype=np.uint16)
    pixels[2:5, 2] = 0
    return pixels


def test_a_folder_of_classes_is_reported_in_full(tmp_path: Path) -> None:
    for name, count in (("ka", 3), ("ga", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            png(tmp_path / name / f"{index}.png", page(255), 8)
    png(tmp_path / "ga" / "deep.png", page(4095, 20), 16)
    png(tmp_path / "ga" / "key.PNG", page(255), 8, (255,))
    png(tmp_path / "ka" / "light.tif", 255 - page(255), 8)
    (tmp_path / ".DS_Store").touch()
    found = check(tmp_path)
    assert found.facts == {
        "path": str(tmp_path),
        "what": "images",
        "files": 7,
        "classes": {"ga": 3, "ka": 4},
        "kinds": {"PNG, 8-bit grey": 6, "PNG, 16-bit grey": 1},
        "bits": {"8": 6, "12": 1},
        "sizes": {"smallest": [8, 8], "largest": [20, 20]},
        "transparent": 1,
        "ink": "dark",
        "coloured": 0,
        "refused": [],
        "notes": list(found.notes),
    }
    lines = dict(found.lines)
    assert lines["classes"] == "2, of 3 to 4 images each: 4 ka; 3 ga"
    assert lines["samples"] == "6 of 8 bits; 1 of 12 bits"
    assert [note.split(":")[0] for note in found.notes] == [
        "samples of more than 8 bits reach 4095",
        "skipped hidden files",
        "edge unlike most images",
        "files whose name does not match their format",
    ]


@pytest.mark.parametrize(("light", "ink"), [(0, "dark"), (1, None), (2, "light")])
def test_a_flat_folder_has_no_classes_and_ink_may_be_undecided(
    light: int, ink: str | None, tmp_path: Path
) -> None:
    for index in range(2):
        pixels = (page(1000) / 1000).astype(np.float32)
        tiff(tmp_path / f"{index}.tif", 1 - pixels if index < light else pixels)
    facts = check(tmp_path).facts
    assert (facts["classes"], facts["ink"], facts["bits"]) == (None, ink, {"float": 2})


def test_a_text_with_speakers_is_recognised(tmp_path: Path) -> None:
    text = "\ufeffAnn:\r\nOne two.\r\n\r\nBo\u200bb:\r\nThree.\r\n\r\nANN:\r\nFour.\r\n\r\nExeunt\r\n"
    (tmp_path / "play.txt").write_bytes(text.encode())
    found = check(tmp_path / "play.txt")
    assert found.facts["speakers"] == [
        {"name": "Ann", "speeches": 1, "characters": 8},
        {"name": "Bob", "speeches": 1, "characters": 6},
        {"name": "ANN", "speeches": 1, "characters": 5},
    ]
    told = ("encoding", "byte_order_mark", "line_ends", "invisible", "alike", "left_out")
    assert [found.facts[key] for key in told] == [
        "UTF-8",
        True,
        {"CR LF": 10},
        {"zero width space": 1},
        [["Ann", "ANN"]],
        1,
    ]
    assert found.notes == (
        "begins with a byte-order mark",
        "lines end in 10 CR LF",
        "invisible characters left out: 1 zero width space",
        "speakers that may be the same: 'Ann', 'ANN'",
        "1 blocks are not speech and are left out, such as 'Exeunt'",
    )


def test_clients_and_possible_tasks_are_reported_and_bad_files_named(tmp_path: Path) -> None:
    for client, count in (("anna", 3), ("bob", 2)):
        for label in ("ka", "ga", "ta")[:count]:
            (tmp_path / client / label).mkdir(parents=True)
            for index in range(4):
                png(tmp_path / client / label / f"{index}.png", page(255), 8)
    (tmp_path / "anna" / "ka" / "0.png").write_bytes(b"")
    (tmp_path / "bob" / "ga" / "1.png").write_text("no image")
    (tmp_path / "bob" / "notes.txt").write_text("hello")
    found = check(tmp_path)
    assert found.facts["clients"] == {
        "anna": {"ga": 4, "ka": 3, "ta": 4},
        "bob": {"ga": 3, "ka": 4},
    }
    assert [name for name, _ in found.refused] == ["anna/ka/0.png", "bob/ga/1.png"]
    assert found.refused[0][1] == "is empty"
    lines = dict(found.lines)
    assert lines["clients"] == "2, of 2 to 3 classes each (fewest: bob)"
    assert lines["possible"] == "2 ways with shots + queries up to 3 (fewest: anna/ka)"
    assert any("notes.txt" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "nothing at '"),
        ("empty", "empty holds no files: name a folder with images, sounds, texts or arrays"),
        ("hollow", "hollow holds no files"),
        ("deep", "deep/train/anna/ka is a folder within a class"),
        ("bad", r"x\.png: not a PNG"),
        ("x.txt", "has no speech .*: name the folder of a text without speakers"),
    ],
)
def test_unreadable_files_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "anna" / "ka").mkdir(parents=True)
    (tmp_path / "deep" / "train" / "anna" / "ka").mkdir(parents=True)
    (tmp_path / "deep" / "train" / "anna" / "ka" / "x.png").write_text("an image")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("no image")
    (tmp_path / "x.txt").write_text("no speech")
    with pytest.raises(DataError, match=message):
        check(tmp_path / name)
