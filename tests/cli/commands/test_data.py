"""`fedmeta data fetch` with and without a terminal, and `fedmeta data check`."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fedmeta.cli.main import main
from tests.cli.test_main import call
from tests.tasks.image_writing import png


class Terminal(io.StringIO):
    """Text that a terminal would have been sent."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_file_in_the_place_of_the_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(sys, "stderr", error := stream())
    with pytest.raises(SystemExit) as done:
        main(["data", "fetch", "omniglot", "--folder", str(tmp_path / "file")])
    assert done.value.code == 2
    line, end = error.getvalue().split("\n")
    assert line.startswith(f"fedmeta: {tmp_path / 'file'}")
    assert "cannot be written" in line
    assert end == ""


def test_a_check_prints_lines_or_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "play.txt").write_bytes(b"A:\r\nOne.\r\n\r\nB:\r\nTwo.\r\n")
    assert call("data", "check", str(tmp_path / "play.txt")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "encoding    UTF-8",
        "line ends   5 CR LF",
        "speakers    2, with 2 speeches",
        "characters  8; most by A 4, B 4",
        "note        lines end in 5 CR LF",
    ]
    assert call("data", "check", str(tmp_path / "play.txt"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["line_ends"] == {"CR LF": 5}


def test_a_check_takes_the_samples_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png(tmp_path / "x.png", np.eye(5, dtype=np.uint16) * 900, 16)
    for samples, bits in (("auto", "10"), ("16", "16")):
        assert call("data", "check", str(tmp_path), "--samples", samples, "--json") == 0
        assert json.loads(capsys.readouterr().out)["bits"] == {bits: 1}
    assert call("data", "check", str(tmp_path), "--samples", "8") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"", b"\xff\xfea"])
def test_an_unusable_file_is_one_line_and_exit_2(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(content)
    assert call("data", "check", str(tmp_path / "x")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"fedmeta: {tmp_path / 'x'} ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("family", ["molecules", "navigation"])
def test_to_fetch_a_family_is_told_apart_from_a_typo(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "fetch", family) == 2
    assert f"'{family}' is a task family, not a data set" in capsys.readouterr().err


def test_a_check_draws_pictures_where_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in "ab":
        (tmp_path / "own" / label).mkdir(parents=True)
        png(tmp_path / "own" / label / "x.png", np.eye(5, dtype=np.uint16) * 900, 16)
    sheet = tmp_path / "own.png"
    assert call("data", "check", str(tmp_path / "own"), "--pictures", str(sheet), "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["files"] == 2
    assert said.err == f"pictures are in {sheet}\n"
    assert sheet.read_bytes().startswith(b"\x89PNG")
    before = sheet.read_bytes()
    photo = tmp_path / "own" / "a" / "x.png"
    for taken in (sheet, photo):
        assert call("data", "check", str(tmp_path / "own"), "--pictures", str(taken)) == 2
        assert f"{taken} exists: remove it, or name another file" in capsys.readouterr().err
    assert sheet.read_bytes() == before
    inside = tmp_path / "own" / "a" / "sheet.png"
    assert call("data", "check", str(tmp_path / "own"), "--pictures", str(inside)) == 2
    assert "whose files are read: name one elsewhere" in capsys.readouterr().err
    assert not inside.exists()
    missing = tmp_path / "missing" / "own.png"
    assert call("data", "check", str(tmp_path / "own"), "--pictures", str(missing)) == 2
    assert f"--pictures: no folder {missing.parent} for own.png" in capsys.readouterr().err
    (tmp_path / "own.csv").write_text("who,score\nanna,1\n")
    drawn = tmp_path / "table.png"
    assert call("data", "check", str(tmp_path / "own.csv"), "--pictures", str(drawn)) == 2
    said = capsys.readouterr()
    assert said.err == f"fedmeta: --pictures is for folders of images: {tmp_path / 'own.csv'} is none\n"
    assert said.out == ""
    assert not drawn.exists()
