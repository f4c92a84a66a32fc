"""A folder for what Ray leaves on a disk, which is removed whatever becomes of the run."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "fm-ray-"
LOCK = "fedmeta.lock"


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for Ray's sockets and logs, and remove it with the block.

    Folders of runs that were killed, which could not do so, are removed as well: a lock tells them from
    those in use.

    Args:
        parent: Where it goes; None: in the system's folder for temporary files.
    """
    parent = parent or _short()
    remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        # Ray's processes may be writing their last lines.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.2)
        os.close(lock)


def _short() -> Path:
    # A socket's path may have no more than 107 bytes, and Ray adds 64.
    return Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())


def remove_stale(parent: Path) -> None:
    """Remove this user's folders whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            # One that has no lock yet is being made.
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
