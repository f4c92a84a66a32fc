"""A file lock that ends with its process."""

import fcntl
import os
import threading
from pathlib import Path

from fedmeta.errors import UsageError
from fedmeta.files import open_own

_HELD: set[Path] = set()
_GUARD = threading.Lock()


class FileLock:
    """Holds a lock until it is released or the process ends; a `UsageError` if another holds it.

    A POSIX record lock and not `flock`: forked children do not inherit it, so none can keep it after us.
    Such a lock does not exclude its own process, hence the set of held locks. `what` is for messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path.resolve()
        with _GUARD:
            if self._path in _HELD:
                raise UsageError(f"{what} is already open in this process")
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = open_own(path, os.O_RDWR, 0o600)
            except OSError as error:
                raise UsageError(f"cannot write to {path.parent}: {error.strerror}") from None
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(self._file, 20).decode(errors="replace").strip() or "unknown"
                os.close(self._file)
                raise UsageError(
                    f"{what} is open in another process (pid {holder}): wait or stop it"
                ) from None
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
            _HELD.add(self._path)

    def release(self) -> None:
        """Release the lock; may be called twice."""
        with _GUARD:
            if self._file >= 0:
                _HELD.discard(self._path)
                os.close(self._file)
                self._file = -1
