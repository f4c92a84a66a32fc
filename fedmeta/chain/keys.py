"""Keys of the sponsor, the committee and the clients; development keys on local chains only.

Keys are read from the environment or a folder of encrypted key files, and never stored elsewhere.
"""

import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from fedmeta.chain.options import LOCAL_CHAIN_IDS, LOOPBACK, ChainOptions
from fedmeta.chain.signing import Signer
from fedmeta.errors import UsageError
from fedmeta.files import open_new, read_json

SPONSOR_KEY = "FEDMETA_SPONSOR_KEY"
COMMITTEE_KEYS = "FEDMETA_COMMITTEE_KEYS"
CLIENT_SECRET = "FEDMETA_CLIENT_SECRET"
PASSWORD = "FEDMETA_KEYSTORE_PASSWORD"

_DEVELOPMENT_SECRET = b"fedmeta development clients: everybody knows this secret"
_SHORTEST_SECRET = 32


class ClientKeys:
    """One key per client, derived from the run's id and a secret, whose owner can sign for all."""

    def __init__(self, secret: bytes, run: bytes) -> None:
        self._secret = hmac.digest(secret, run, "sha256")
        self._signers: dict[int, Signer] = {}

    def address(self, client: int) -> str:
        """Return a client's account."""
        return self.signer(client).address

    def sign(self, client: int, digest: bytes) -> bytes:
        """Return a client's 65-byte signature of a 32-byte digest."""
        return self.signer(client).sign(digest)

    def signer(self, client: int) -> Signer:
        """Return a client's key."""
        if client not in self._signers:
            # One hash in 2^128 is not a valid key; this is ignored.
            secret = hmac.digest(self._secret, client.to_bytes(8), "sha256")
            self._signers[client] = Signer(secret)
        return self._signers[client]


@dataclass(frozen=True)
class Keys:
    """The keys of a run's sponsor, which pays and sends all transactions, and committee.

    The members sign records. They are sorted by address, as the contracts require.
    """

    sponsor: Signer
    committee: tuple[Signer, ...]

    def sign(self, threshold: int, digest: bytes) -> bytes:
        """Return the signatures of the first `threshold` committee members."""
        return b"".join(member.sign(digest) for member in self.committee[:threshold])


def open_keys(
    options: ChainOptions, chain_id: int | None, environment: Mapping[str, str] = os.environ
) -> Keys:
    """Return the keys of a run's sponsor and committee; for clients' see `open_client_keys`.

    Args:
        chain_id: The node's chain id, or None if it has not answered yet.
        environment: Source of FEDMETA_SPONSOR_KEY, FEDMETA_COMMITTEE_KEYS (separated by commas) and
            FEDMETA_KEYSTORE_PASSWORD.

    Raises:
        UsageError: If keys are missing, malformed or not allowed on the chain.
    """
    if _is_development(options, chain_id, environment):
        sponsor, *members = map(Signer, development_keys(1 + options.committee))
    elif options.keystore:
        names = ["sponsor", *(f"committee-{index + 1}" for index in range(options.committee))]
        sponsor, *members = (Signer(read_key(options.keystore, n, environment)) for n in names)
    else:
        sponsor, members = _signers(SPONSOR_KEY, environment)[0], _signers(COMMITTEE_KEYS, environment)
        if len(members) != options.committee:
            raise UsageError(
                f"{COMMITTEE_KEYS} has {len(members)} keys; chain.committee = {options.committee}"
            )
    members.sort(key=lambda member: member.address.lower())
    addresses = {member.address for member in members}
    if len(addresses) < len(members):
        raise UsageError("two committee members have the same key")
    if sponsor.address in addresses:
        raise UsageError("the sponsor and a committee member have the same key: use another")
    return Keys(sponsor, tuple(members))


def open_client_keys(
    options: ChainOptions,
    chain_id: int | None,
    run: bytes,
    environment: Mapping[str, str] = os.environ,
) -> ClientKeys:
    """Return the keys of a simulation's clients; see `open_keys`.

    Args:
        chain_id: The node's chain id, or None if it has not answered yet.
        run: The run's id, 32 bytes.
        environment: Source of FEDMETA_CLIENT_SECRET and FEDMETA_KEYSTORE_PASSWORD.
    """
    if _is_development(options, chain_id, environment):
        return ClientKeys(_DEVELOPMENT_SECRET, run)
    if options.keystore:
        return ClientKeys(read_key(options.keystore, "clients", environment), run)
    secret = _variable(CLIENT_SECRET, environment)
    if len(secret) < _SHORTEST_SECRET:
        raise UsageError(f"{CLIENT_SECRET} has fewer than {_SHORTEST_SECRET} characters")
    return ClientKeys(secret.encode(), run)


def _signers(variable: str, environment: Mapping[str, str]) -> list[Signer]:
    """Return the keys in a variable; messages never show its value."""
    try:
        parts = _variable(variable, environment).split(",")
        return [Signer(bytes.fromhex(part.strip().removeprefix("0x"))) for part in parts]
    except ValueError:
        raise UsageError(f"{variable} is not a private key in 64 hexadecimal digits") from None


def _variable(name: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if not value:
        raise UsageError(f"the environment variable {name} is not set")
    return value


def _is_development(options: ChainOptions, chain_id: int | None, environment: Mapping[str, str]) -> bool:
    """Return whether the public development keys are used, which only local chains may.

    Chains that we start have no other accounts with funds.
    """
    given = any(environment.get(name) for name in (SPONSOR_KEY, COMMITTEE_KEYS, CLIENT_SECRET))
    if options.is_url and (options.keystore or given):
        return False
    chain_id = options.chain_id if chain_id is None else chain_id
    if chain_id is None and options.is_url:
        host = urlsplit(options.provider).hostname
        if host not in LOOPBACK:
            raise UsageError(
                _not_local(f"the node at {host or options.provider}")
                + ", or chain.chain_id if it is a local one"
            )
    elif chain_id is not None and chain_id not in LOCAL_CHAIN_IDS:
        raise UsageError(_not_local(f"chain {chain_id}"))
    return True


def _not_local(what: str) -> str:
    return (
        f"{what} must not use the development keys, which are public: set {SPONSOR_KEY}, "
        f"{COMMITTEE_KEYS} and {CLIENT_SECRET}, or chain.keystore"
    )


def read_key(folder: str, name: str, environment: Mapping[str, str]) -> bytes:
    """Return the 32 bytes of a key in a folder, such as ``sponsor`` or ``committee-1``.

    Raises:
        UsageError: No such file, one that others can read or write, no password or a wrong one.
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
        raise UsageError(f"the environment variable {PASSWORD} is not set; it decrypts {path}")
    return open_key(path, password)


def open_key(path: Path, password: str) -> bytes:
    """Return the 32 bytes in an encrypted key file (Web3 Secret Storage, version 3)."""
    from eth_account import Account

    try:
        secret = bytes(Account.decrypt(read_json(path), password))
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, OSError) as error:
        if "MAC" in str(error):
            raise UsageError(f"{PASSWORD} does not open {path}: wrong password") from None
        secret = b""
    if len(secret) != 32:
        raise UsageError(f"{path} is not an encrypted key (Web3 Secret Storage, version 3)")
    return secret


def write_key(path: Path, secret: bytes, password: str) -> None:
    """Write an encrypted key file that only its owner may read, whatever the umask.

    With an empty password the key is effectively not encrypted.
    """
    from eth_account import Account

    # Geth's standard work factor; minimal without a password to guess.
    work = 2**18 if password else 2
    content = Account.encrypt(secret, password, kdf="scrypt", iterations=work)
    with open_new(path, 0o600) as file:
        file.write(json.dumps(content).encode())


MNEMONIC = "test test test test test test test test test test test junk"
BALANCE = 10_000 * 10**18
"""Wei of each development account on the chains that we start, as on Anvil."""


@lru_cache
def development_keys(count: int) -> tuple[bytes, ...]:
    """Return the private keys of the mnemonic's first accounts (BIP-44: m/44'/60'/0'/0/...)."""
    from eth_account.hdaccount import key_from_seed, seed_from_mnemonic

    seed = seed_from_mnemonic(MNEMONIC, passphrase="")
    return tuple(key_from_seed(seed, f"m/44'/60'/0'/0/{index}") for index in range(count))
