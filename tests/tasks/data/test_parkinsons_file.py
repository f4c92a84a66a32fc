"""Measurements: what they are known by, however they are written, and what is refused with its line."""

from pathlib import Path

import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.data.parkinsons_file import (
    COLUMNS,
    read_measurements,
    sum_of_measurements,
)
from fedmeta.tasks.data.sources import source_named
from tests.tasks.conftest import real_file
from tests.tasks.data.parkinsons_writing import FILE, write_measurements


def test_columns_are_read_by_name(tmp_path: Path) -> None:
    data = read_measurements(write_measurements(tmp_path, patients=2), "")
    assert {len(column) for column in data.values()} == {36}
    assert data["subject#"] == [1] * 18 + [2] * 18
    assert data["total_UPDRS"][:7] == [10, 11, 12, 13, 14, 15, 10]
    assert data["test_time"][6] == 0.001
    assert data["PPE"][0] == 0.17


def test_commas_tabs_and_line_ends_make_no_difference(tmp_path: Path) -> None:
    first = sum_of_measurements(write_measurements(tmp_path / "a"))
    assert sum_of_measurements(write_measurements(tmp_path / "b", sign="\t", end="\r\n")) == first
    assert sum_of_measurements(write_measurements(tmp_path / "c", patients=3)) != first


def test_a_number_is_the_same_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    """The official file has 4.065e-005, a spreadsheet 4.07E-05: three digits, with half of one up."""
    path = write_measurements(tmp_path)
    text, place = path.read_text(), COLUMNS.index("Jitter(Abs)")
    sums = []
    for written in ("4.065e-005", "4.07E-05", "0.0000407", "4.06E-05"):
        lines = text.splitlines()
        cells = lines[1].split(",")
        cells[place] = written
        lines[1] = ",".join(cells)
        path.write_text("\n".join(lines))
        sums.append(sum_of_measurements(path))
    assert sums[0] == sums[1] == sums[2] != sums[3]
    assert read_measurements(path, "")["Jitter(Abs)"][0] == 4.06e-05


def test_the_official_numbers_have_the_published_sum() -> None:
    (official,) = source_named("parkinsons").files
    path = real_file(FILE)
    assert official.sum(path) == official.sha256
    data = read_measurements(path, "")
    assert len(data["age"]) == 5875
    assert set(data["subject#"]) == set(range(1, 43))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("subject#", "patient", "line 1 does not name the 22 columns"),
        ("1,61,1,0.000,", "1,61,1,", "line 2 does not have 22 numbers"),
        ("1,61,1,0.000,", "1,61,m,0.000,", "line 2 has something else than numbers"),
        ("1,61,1,0.000,", "1,61,1,NaN,", "line 2 does not have 22 numbers"),
        (
            "1,61,1,7.000,5.5,11,0.03000",
            "1,61,1,7.000,5.5,11,0.0",
            "line 3 has a jitter, shimmer or NHR that",
        ),
        ("1,61", "1,6\u0661", "corrupt or truncated"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(
    old: str, new: str, why: str, tmp_path: Path
) -> None:
    path = write_measurements(tmp_path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=why) as refusal:
        read_measurements(path, "fetch it")
    assert str(refusal.value).endswith("fetch it")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, ",".join(COLUMNS).encode()])
def test_a_file_without_recordings_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "updrs.data"
    path.write_bytes(content)
    with pytest.raises(DataError, match="corrupt or truncated"):
        sum_of_measurements(path)
