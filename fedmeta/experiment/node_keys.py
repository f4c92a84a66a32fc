"""A node owner's keys: signed registrations, and signatures of updates."""

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from pydantic import Field

from fedmeta.chain import Signer, recover, require_extra, update_digest
from fedmeta.chain.keys import PASSWORD, open_key, write_key
from fedmeta.chain.signing import presence_digest, registration_digest
from fedmeta.errors import ConfigError, UsageError
from fedmeta.federation.engines.deployment.tls import NodeKey, make_node_key
from fedmeta.files import read_json, reason, write_atomically
from fedmeta.options import Options, parse_options

LARGEST = 2**24
"""Most bytes of a registration or roster; a node takes about 800."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Pattern of a federation's name."""
_HASH = ec.ECDSA(hashes.SHA384())


class Registration(Options):
    """Requests a partition of a federation, with proof that the sender holds both keys.

    Attributes:
        version: Version of this format.
        federation: Name of the federation.
        partition: The partition.
        account: Address that is paid.
        key: The node's public key, which authenticates it to the SuperLink, in OpenSSH format.
        signature: The account's signature of `registration_digest`, in hexadecimal.
        key_signature: The key's signature of the same, in hexadecimal.
    """

    version: Literal[1] = 1
    federation: str = Field(pattern=NAME)
    partition: int = Field(ge=0, lt=2**32)
    account: str = Field(pattern=r"^0x[0-9a-fA-F]{40}$")
    key: str = Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{1,400}$")
    signature: str = Field(pattern=r"^[0-9a-f]{130}$")
    key_signature: str = Field(pattern=r"^[0-9a-f]{2,300}$")

    def check(self, where: object) -> None:
        """Check both signatures.

        Args:
            where: Start of an error message.

        Raises:
            UsageError: If a signature does not belong to its key.
        """
        try:
            digest = _digest(self.federation, self.partition, self.key)
            signer = recover(digest, bytes.fromhex(self.signature))
            public = load_ssh_public_key(self.key.encode())
            if not isinstance(public, ec.EllipticCurvePublicKey):
                raise ValueError("not an elliptic curve")
            public.verify(bytes.fromhex(self.key_signature), digest, _HASH)
        except (ValueError, OverflowError, UnsupportedAlgorithm):
            raise UsageError(
                f"{where}: not a registration written by `fedmeta federation join`"
            ) from None
        except InvalidSignature:
            raise UsageError(f"{where}: it is not signed with the key that it names") from None
        if signer != self.account:
            raise UsageError(f"{where}: it is signed by {signer}, not by its account {self.account}")


def read_registration(path: Path) -> Registration:
    """Read and check a registration.

    Raises:
        UsageError: If it cannot be read, is not one, or is not signed with its keys.
    """
    try:
        found = parse_options(Registration, read_object(path, "a registration"))
    except ConfigError as error:
        raise UsageError(f"{path} is not a registration: {error}") from None
    found.check(path)
    return found


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a small, untrusted file with a JSON object.

    Args:
        path: The file.
        what: What it should be, for a message.

    Raises:
        UsageError: If there is none, or it is too large or not JSON.
    """
    try:
        found = read_json(path, LARGEST)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}: name {what}") from None
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not a JSON object: name {what}")
    return found


def _digest(federation: str, partition: int, key: str) -> bytes:
    return registration_digest(federation, partition, hashlib.sha256(key.encode()).digest())


@dataclass(frozen=True)
class NodeFiles:
    """Paths of a node's files, which all have its name.

    Attributes:
        folder: Where they are.
        name: The node's name.
    """

    folder: Path
    name: str = "node"

    @property
    def key(self) -> NodeKey:
        """The key that authenticates it to the SuperLink."""
        return NodeKey(self.folder / self.name, self.folder / f"{self.name}.pub")

    @property
    def account(self) -> Path:
        """The encrypted key of the account that is paid."""
        return self.folder / f"{self.name}.account.json"

    @property
    def registration(self) -> Path:
        """The registration that the owner sends to the server; it has no secrets."""
        return self.folder / f"{self.name}.registration.json"


def join(files: NodeFiles, federation: str, partition: int) -> Registration:
    """Make a node's keys, unless they exist, and write its registration.

    The key of the account is encrypted with FEDMETA_KEYSTORE_PASSWORD if that is set.

    Args:
        files: Paths of the files; only the owner can read the private keys.
        federation: Name of the federation.
        partition: The partition to ask for.

    Raises:
        UsageError: If the name is invalid, the folder cannot be written, or existing files are not such
            keys.
    """
    require_extra()
    if not re.fullmatch(NAME, federation):
        raise UsageError(
            f"--federation '{federation}': use at most 100 letters, digits, '.', '_' and '-'"
        )
    password = os.environ.get(PASSWORD, "")
    try:
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not files.key.private.exists():
            make_node_key(files.folder, files.name)
        if not files.account.exists():
            write_key(files.account, secrets.token_bytes(32), password)
        private = load_ssh_private_key(files.key.private.read_bytes(), None)
        key = files.key.public.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UsageError(f"{error.filename or files.folder}: {error.strerror or error}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{files.key.private} is not a node's key: choose another --dir") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{files.key.private} is not a P-384 key: choose another --dir")
    signer = open_account(files.account)
    digest = _digest(federation, partition, key)
    made = Registration(
        federation=federation,
        partition=partition,
        account=signer.address,
        key=key,
        signature=signer.sign(digest).hex(),
        key_signature=private.sign(digest, _HASH).hex(),
    )
    made.check(files.registration)
    write_atomically(files.registration, f"{made.model_dump_json(indent=1)}\n".encode())
    return made


def open_account(path: Path) -> Signer:
    """Open a node's account, with the password in FEDMETA_KEYSTORE_PASSWORD if it has one.

    Raises:
        UsageError: If there is no such file, or the password does not open it.
    """
    require_extra()
    if not path.is_file():
        raise UsageError(f"there is no file {path}: make it with `fedmeta federation join`")
    return Signer(open_key(path, os.environ.get(PASSWORD, "")))


class NodeSigner:
    """Signs for one node; see `fedmeta.federation.accounts.Signing` and `Proving`.

    It signs two things, with typed data that no contract accepts: an update that this process computed,
    and a proof that the node holds its partition.

    Args:
        account: The node's account.
        run: The run's id, 32 bytes.
    """

    def __init__(self, account: Signer, run: bytes) -> None:
        self.account = account
        self.run = run

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:  # noqa: ARG002
        """Return the account's signature of an update."""
        return self.account.sign(update_digest(self.run, round_, tasks, update))

    def prove(self, node: int, client: int, nonce: bytes) -> bytes:
        """Return the account's signature that `node` holds partition `client` in this run."""
        return self.account.sign(presence_digest(self.run, node, client, nonce))
