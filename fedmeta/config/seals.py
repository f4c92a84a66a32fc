"""Seals: mark folders whose config this user made on this machine.

Each config that fedmeta writes into a folder is sealed with a secret of this user: ``config.seal``
beside it holds its HMAC-SHA256 (RFC 2104). A folder that is moved or copied stays one that was made
here, and one whose config was edited does not.
"""

import hmac
import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from fedmeta.files import MOST_TOML, open_new, read_file, write_atomically

STATE = "FEDMETA_STATE"
"""Environment variable: the folder of the secret, instead of the user's state folder."""
CONFIG, SEAL = "config.toml", "config.seal"

_BYTES = 32
_WHAT = b"fedmeta config\0"


def seal(folder: Path, *configs: bytes) -> None:
    """Seal a folder's config as ours, if it is one of `configs`.

    Where that is not possible, `problem` says why.

    Raises:
        OSError: If the folder cannot be written.
    """
    if secret := _secret(make=True):
        write_atomically(folder / SEAL, b"".join(_digest(secret, one) + b"\n" for one in configs))


def made_here(folder: Path) -> bool:
    """Return whether this user made a folder's config on this machine, unchanged since."""
    secret = _secret(make=False)
    if secret is None:
        return False
    try:
        found = read_file(folder / SEAL, 8 * _BYTES, follow=False).split()
        own = _digest(secret, read_file(folder / CONFIG, MOST_TOML, follow=False))
    except (OSError, ValueError):
        return False
    return any(hmac.compare_digest(one, own) for one in found)


def problem() -> str | None:
    """Return why folders that are made now will not count as made here; None if they will."""
    lost = "folders that are made now will not count as made here"
    try:
        path = _path()
    except RuntimeError:
        return f"there is no home folder, and {STATE} is not set: {lost}"
    try:
        _make(path)
        _read(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}: {lost}"
    return None


def state_folder() -> Path:
    """Return the folder of this user's state on this machine (XDG Base Directory)."""
    if named := os.environ.get(STATE):
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/fedmeta").expanduser()
    base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    # The standard ignores relative paths: they would lead into whatever folder is the current one.
    base = base if base.is_absolute() else Path("~/.local/state")
    return base.expanduser() / "fedmeta"


def _path() -> Path:
    return state_folder() / "seal.key"


def _secret(make: bool) -> bytes | None:
    try:
        if make:
            _make(_path())
        return _read(_path())
    except (OSError, RuntimeError):
        # RuntimeError: the user has no home.
        return None


def _make(path: Path) -> None:
    """Create the secret if there is none, readable by the user only, regardless of the umask."""
    if os.path.lexists(path):
        return
    for parent in reversed([path.parent, *path.parent.parents]):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open_new(new, 0o600) as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Another process may be making it too: the first one's is everybody's.
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    """Return the secret.

    Raises:
        OSError: If it cannot be read, or others can read or write it.
    """
    with os.fdopen(
        os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
    ) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != _BYTES:
            raise OSError(0, "is not a key: remove it")
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise OSError(0, "others may have read or written it: remove it")
        return file.read(_BYTES)


def _digest(secret: bytes, config: bytes) -> bytes:
    return hmac.digest(secret, _WHAT + config, "sha256").hex().encode()
