"""Encrypted key files, as Geth and Foundry write them (Web3 Secret Storage, version 3)."""

import json
from collections.abc import Mapping
from pathlib import Path

from fedmeta.errors import UsageError
from fedmeta.files import open_new, read_json

PASSWORD = "FEDMETA_KEYSTORE_PASSWORD"


def read_key(folder: str, name: str, environment: Mapping[str, str]) -> bytes:
    """Decrypt one key.

    Args:
        folder: Where ``sponsor.json``, ``committee-1.json`` and so on, and ``clients.json`` are.
        name: Of the file, without its ending.
        environment: Where FEDMETA_KEYSTORE_PASSWORD is looked up.

    Returns:
        The secret, 32 bytes.

    Raises:
        UsageError: No folder, no such file, one that others can read or write, not a key file, no
            password or a wrong one.
    """
    path = Path(folder).expanduser() / f"{name}.json"
    if not path.parent.is_dir():
        raise UsageError(f"chain.keystore: there is no folder {path.parent}")
    if not path.is_file():
        raise UsageError(f"chain.keystore: there is no file {path}")
    if path.stat().st_mode & 0o077:
        raise UsageError(f"chain.keystore: others can read or write {path}: chmod 600 {path}")
    password = environment.get(PASSWORD)
    if password is None:
        raise UsageError(f"the environment variable {PASSWORD} is not set; it opens {path}")
    return open_key(path, password)


def open_key(path: Path, password: str) -> bytes:
    """Return the 32 bytes in an encrypted key file.

    Raises:
        UsageError: If it cannot be read, is not a key file, or the password is wrong.
    """
    from eth_keyfile.keyfile import decode_keyfile_json

    try:
        content = read_json(path)
        secret = bytes(decode_keyfile_json(content, password.encode()))
    except ValueError as error:
        if "MAC" in str(error):
            raise UsageError(f"{PASSWORD} does not open {path}: wrong password") from None
        raise UsageError(_not_a_key(path)) from None
    except (KeyError, TypeError, AttributeError, NotImplementedError, OSError):
        raise UsageError(_not_a_key(path)) from None
    if len(secret) != 32:
        raise UsageError(_not_a_key(path))
    return secret


def write_key(path: Path, secret: bytes, password: str) -> None:
    """Write an encrypted key file that its owner alone may read, under any umask.

    An empty password encrypts nothing: whoever reads the file has the key.

    Raises:
        OSError: If something is there already, or the place cannot be written.
    """
    from eth_keyfile.keyfile import create_keyfile_json

    # Geth's standard work factor; none where there is nothing to guess.
    work = 2**18 if password else 2
    content = create_keyfile_json(secret, password.encode(), kdf="scrypt", iterations=work)
    with open_new(path, 0o600) as file:
        file.write(json.dumps(content).encode())


def _not_a_key(path: Path) -> str:
    return f"{path} is not an encrypted key (Web3 Secret Storage, version 3)"
