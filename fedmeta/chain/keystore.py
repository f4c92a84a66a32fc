"""Encrypted key files, as Geth and Foundry write them (Web3 Secret Storage, version 3)."""

from collections.abc import Mapping
from pathlib import Path

from fedmeta.errors import UsageError
from fedmeta.files import read_json

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
        UsageError: No folder, no such file, not a key file, no password or a wrong one.
    """
    from eth_keyfile.keyfile import decode_keyfile_json

    path = Path(folder).expanduser() / f"{name}.json"
    if not path.parent.is_dir():
        raise UsageError(f"chain.keystore: there is no folder {path.parent}")
    if not path.is_file():
        raise UsageError(f"chain.keystore: there is no file {path}")
    password = environment.get(PASSWORD)
    if password is None:
        raise UsageError(f"the environment variable {PASSWORD} is not set; it opens {path}")
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


def _not_a_key(path: Path) -> str:
    return f"{path} is not an encrypted key (Web3 Secret Storage, version 3)"
