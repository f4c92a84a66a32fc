import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmeta.errors import DataError
from fedmeta.tasks.data.omniglot_files import read_characters, shrink
from tests.tasks.conftest import SMALL_1, SMALL_2, real_file, write_zip


def stripes(alphabet: str, character: int, drawer: int) -> np.ndarray:
    page = np.zeros((105, 105))
    page[10 * character : 10 * character + 4, : 20 * drawer] = 1
    return page


@pytest.fixture
def tiny(folders: Path) -> list[Path]:
    write_zip(folders / SMALL_1, {"Greek": 2, "Korean": 3}, stripes)
    write_zip(folders / SMALL_2, {"Greek": 2, "Tagalog": 1}, stripes)
    return [folders / SMALL_1, folders / SMALL_2]


def test_shrinking_averages_ink_over_the_area_of_a_cell() -> None:
    page = np.zeros((1, 105, 105), dtype=np.float32)
    page[0, :15, :15] = 1
    small = shrink(page)[0]
    # 15 pixels are exactly 4 cells of 3.75.
    assert (small[:4, :4] == 255).all()
    assert small[4:].max() == small[:, 4:].max() == 0
    page[0, :, 15] = 1
    # One column of pixels fills 1 / 3.75 of each cell in the fifth column: 255 / 3.75 = 68.
    assert (shrink(page)[0, :, 4] == 68).all()


def test_images_of_another_size_are_cached_apart(tiny: list[Path]) -> None:
    small, whole = read_characters(tiny, "omniglot"), read_characters(tiny, "omniglot", size=105)
    assert (small.images.shape[1:], whole.images.shape[1:]) == ((28, 28), (105, 105))
    assert set(np.unique(whole.images)) == {0, 255}
    assert np.array_equal(shrink((whole.images > 0).astype(np.float32)), small.images)
    for size, known in ((28, small), (105, whole)):
        assert np.array_equal(read_characters(tiny, "omniglot", size).images, known.images)


def test_an_alphabet_that_both_files_hold_is_read_once(tiny: list[Path]) -> None:
    known = read_characters(tiny, "omniglot")
    assert known.names == (
        "Greek/character01",
        "Greek/character02",
        "Korean/character01",
        "Korean/character02",
        "Korean/character03",
        "Tagalog/character01",
    )
    assert known.files.tolist() == [0, 0, 0, 0, 0, 1]
    assert np.bincount(known.character).tolist() == [4] * 6
    assert known.images.dtype == np.uint8


def test_ink_is_one_where_the_official_files_are_black(tiny: list[Path]) -> None:
    first = read_characters(tiny, "omniglot").images[0]
    # Rows 10 to 13 are inked: cell 3 (rows 11.25 to 15) to (14 - 11.25) / 3.75 = 11/15 of its height.
    assert first[3, 0] == round(255 * 11 / 15)
    assert first[10:].max() == 0


def test_the_second_time_images_come_from_the_cache_and_are_the_same(
    tiny: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_characters(tiny, "omniglot")
    monkeypatch.setattr("fedmeta.tasks.data.omniglot_files._decode_all", None)
    second = read_characters(tiny, "omniglot")
    assert np.array_equal(first.images, second.images)
    assert first.names == second.names
    assert [path.suffix for path in (tmp_path / "cache" / "decoded").iterdir()] == [".npz"]
    assert sorted(path.suffix for path in tiny[0].parent.iterdir()) == [".zip", ".zip"]


def test_a_damaged_cache_is_made_again(tiny: list[Path], tmp_path: Path) -> None:
    first = read_characters(tiny, "omniglot")
    (kept,) = (tmp_path / "cache" / "decoded").iterdir()
    kept.write_bytes(kept.read_bytes()[:-200])
    assert np.array_equal(read_characters(tiny, "omniglot").images, first.images)


def test_other_files_are_not_served_from_the_cache_of_these(tiny: list[Path]) -> None:
    read_characters(tiny, "omniglot")
    write_zip(tiny[1], {"Sanskrit": 1}, stripes)
    assert "Sanskrit/character01" in read_characters(tiny, "omniglot").names


def test_a_cache_that_cannot_be_written_is_not_used(
    tiny: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "file"))
    assert len(read_characters(tiny, "omniglot").names) == 6


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes(255 - b for b in content[place : place + 40]) + content[place + 40 :]


def emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [truncated, flipped, emptied])
def test_a_damaged_file_is_named_with_how_to_fetch_it_again(tiny: list[Path], damage: object) -> None:
    tiny[1].write_bytes(damage(tiny[1].read_bytes()))  # type: ignore[operator]
    with pytest.raises(
        DataError, match=r"small2.zip is corrupt or truncated .*: fetch it with `fedmeta data fetch"
    ) as refusal:
        read_characters(tiny, "omniglot")
    assert "\n" not in str(refusal.value)


def test_pages_of_another_size_are_refused(folders: Path) -> None:
    write_zip(folders / SMALL_1, {"Greek": 1}, lambda *_: np.zeros((28, 28)))
    with pytest.raises(DataError, match="is 28x28, not 105x105"):
        read_characters([folders / SMALL_1], "omniglot")


def test_a_zip_of_something_else_is_refused(folders: Path) -> None:
    write_zip(folders / SMALL_1, {}, stripes)
    with pytest.raises(DataError, match=r"it holds no alphabet/characterNN"):
        read_characters([folders / SMALL_1], "omniglot")


def test_without_pillow_the_message_says_what_to_install(
    tiny: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'fedmeta\[data\]'"):
        read_characters(tiny, "omniglot")


def test_the_official_small_sets_hold_what_their_readme_says(folders: Path) -> None:
    known = read_characters([real_file(SMALL_1), real_file(SMALL_2)], "omniglot")
    names, counts = np.unique(known.alphabets, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "Balinese": 24,
        "Early_Aramaic": 22,
        "Greek": 24,
        "Japanese_(katakana)": 47,
        "Korean": 40,
        "Latin": 26,
        "Sanskrit": 42,
        "Tagalog": 17,
    }
    assert known.images.shape == (4840, 28, 28)
    assert set(np.bincount(known.character).tolist()) == {20}
    # A pen stroke covers a few percent of a page, not most of it: ink was not swapped with paper.
    assert 0.02 < known.images.mean() / 255 < 0.2


@pytest.mark.parametrize("kind", ["LA", "RGBA", "P", "I;16"])
def test_pages_that_were_saved_anew_show_the_same_ink_or_are_refused(folders: Path, kind: str) -> None:
    page = np.full((105, 105), 255, dtype=np.uint8)
    page[30:60, 45:60] = 0
    ink = Image.fromarray(255 - page)
    black = Image.new("L", ink.size, 0)
    saved = {
        "LA": Image.merge("LA", (black, ink)),
        "RGBA": Image.merge("RGBA", (black, black, black, ink)),
        "P": Image.fromarray(page).convert("P"),
        "I;16": Image.fromarray(page.astype(np.uint16) * 257),
    }[kind]
    out = BytesIO()
    saved.save(out, "PNG", **({"transparency": 255} if kind == "P" else {}))
    (folders / SMALL_1).parent.mkdir()
    with zipfile.ZipFile(folders / SMALL_1, "w") as archive:
        archive.writestr("x/Greek/character01/0001_01.png", out.getvalue())
    if kind == "I;16":
        with pytest.raises(DataError, match=r"0001_01\.png has more than 8 bits per sample"):
            read_characters([folders / SMALL_1], "omniglot")
        return
    small = read_characters([folders / SMALL_1], "omniglot").images[0]
    expected = np.zeros((28, 28), dtype=np.uint8)
    expected[8:16, 12:16] = 255
    assert np.array_equal(small, expected)


GOOD = "images_background/Latin/character01/0001_01.png"


def packed(path: Path, **members: bytes) -> Path:
    """Write a zip file of members by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def test_a_member_that_lies_about_its_size_is_not_unpacked_whole(tmp_path: Path) -> None:
    """Its head says 300 bytes, and its 40 kB hold 40 MB."""
    data = bytearray(packed(tmp_path / "a.zip", **{GOOD: bytes(40_000_000)}).read_bytes())
    for place in (data.find(b"PK\x03\x04") + 22, data.find(b"PK\x01\x02") + 24):
        data[place : place + 4] = struct.pack("<I", 300)
    (tmp_path / "a.zip").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a\.zip is corrupt"):
            read_characters([tmp_path / "a.zip"], "omniglot")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1 << 18, 1 << 20])
def test_a_drawing_is_small(tmp_path: Path, size: int) -> None:
    with pytest.raises(DataError, match=r"not a PNG|not a drawing: larger than 262144 bytes"):
        read_characters([packed(tmp_path / "a.zip", **{GOOD: bytes(size)})], "omniglot")


def test_an_archive_of_more_work_than_it_looks_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.tasks.data.archives.MOST_UNPACKED", 1_000_000)
    monkeypatch.setattr("fedmeta.tasks.data.archives.MOST_MEMBERS", 3)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("it was unpacked"))
    for members in ({GOOD: bytes(1_000_001)}, {str(n): b"" for n in range(4)}):
        with pytest.raises(DataError, match="more than the limits of 3 and 1000000"):
            read_characters([packed(tmp_path / "a.zip", **members)], "omniglot")


@pytest.mark.parametrize(
    "name", ["../Latin/character01/0001_01.png", "La\x1btin/character01/0001_01.png"]
)
def test_a_name_with_a_path_or_control_characters_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="a member has the name") as refusal:
        read_characters([packed(tmp_path / "a.zip", **{name: b""})], "omniglot")
    assert "\x1b" not in str(refusal.value)
