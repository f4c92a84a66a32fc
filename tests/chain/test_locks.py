"""A lock has one holder at a time, within a process and across processes."""

import os
import sys
from pathlib import Path

import pytest

from fedmeta.chain.locks import FileLock
from fedmeta.errors import UsageError
from tests import processes

HOLD = """
import sys
from pathlib import Path
from fedmeta.chain.locks import FileLock
FileLock(Path(sys.argv[1]), "it")
print("held", flush=True)
sys.stdin.read()
"""


def test_it_is_held_once_and_again_when_released(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    first = FileLock(path, "the thing")
    with pytest.raises(UsageError, match=r"^the thing is already open in this process$"):
        FileLock(tmp_path / "folder" / ".." / "folder" / "lock", "the thing")
    first.release()
    second = FileLock(path, "the thing")
    first.release()
    with pytest.raises(UsageError, match="already open"):
        FileLock(path, "the thing")
    second.release()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_another_process_that_holds_it_is_named_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = processes.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=processes.PIPE,
        stdout=processes.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"open in another process \(pid {holder.pid}\)"):
            FileLock(path, "it")
    holder.communicate("")
    FileLock(path, "it").release()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_a_lock_that_is_not_a_regular_file_is_refused(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "lock", tmp_path / "other"
    other.write_text("precious")
    if what == "link":
        path.symlink_to(other)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UsageError, match=f"cannot write to {tmp_path}"):
        FileLock(path, "it")
    assert other.read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to .*file/folder"):
        FileLock(tmp_path / "file" / "folder" / "lock", "it")
