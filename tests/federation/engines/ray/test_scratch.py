"""Ray's files are removed with the run, or by the next run if it was killed."""

import signal
import subprocess
import sys
from pathlib import Path

from fedmeta.federation.engines.ray.engine import LOCK, PREFIX, remove_stale, scratch
from tests import processes

HOLD = """
import sys, time
from pathlib import Path
from fedmeta.federation.engines.ray.engine import scratch

with scratch(Path(sys.argv[1])) as folder:
    (folder / "session").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


def hold(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = processes.Popen(
        [sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process.stdout:
        return process, Path(process.stdout.readline().strip())


def test_a_folder_is_removed_after_its_block(tmp_path: Path) -> None:
    with scratch(tmp_path) as folder:
        (folder / "session").mkdir()
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_leaves_a_folder_that_the_next_one_removes(tmp_path: Path) -> None:
    process, folder = hold(tmp_path)
    try:
        with scratch(tmp_path) as other:
            assert sorted(tmp_path.iterdir()) == sorted([folder, other])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / "session").is_dir()
    with scratch(tmp_path) as other:
        assert list(tmp_path.iterdir()) == [other]


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    (tmp_path / f"{PREFIX}being-made").mkdir()
    before = sorted(tmp_path.rglob("*"))
    remove_stale(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
