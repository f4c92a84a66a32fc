"""A chain's folder: used by one process at a time."""

import fcntl
import os
import threading
from pathlib import Path

from fedmeta.errors import UsageError
from fedmeta.files import open_own

_HELD: set[Path] = set()
_GUARD = threading.Lock()


class FolderLock:
    """Holds a folder until it is released or the process ends, however it ends.

    A POSIX record lock: a forked child does not have it, so none that outlives us keeps the folder. Such
    a lock does not exclude its own process, hence the set of folders held.

    Args:
        folder: Made if missing.

    Raises:
        UsageError: If it is held already, or cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        path = self.folder / "lock"
        with _GUARD:
            if self.folder in _HELD:
                raise UsageError(f"the chain in {folder} is open already")
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = os.fdopen(open_own(path, os.O_RDWR | os.O_APPEND), "a+", encoding="ascii")
            except OSError as error:
                raise UsageError(f"no chain can be kept in {folder}: {error.strerror}") from None
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.seek(0)
                holder = self._file.read().strip() or "unknown"
                self._file.close()
                raise UsageError(
                    f"the chain in {folder} is open in another process (pid {holder})"
                ) from None
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()
            _HELD.add(self.folder)

    def release(self) -> None:
        """Let go of the folder; twice is fine."""
        with _GUARD:
            if self.folder in _HELD and not self._file.closed:
                self._file.close()
                _HELD.discard(self.folder)
