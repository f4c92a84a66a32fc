"""`fedmeta data fetch` on a terminal and off one."""

import io
import sys
from pathlib import Path

import pytest

from fedmeta.cli.main import main


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
