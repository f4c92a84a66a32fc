"""The development accounts that Hardhat, Anvil and everybody else uses: worth nothing, known to all."""

import hashlib
import hmac
from functools import lru_cache

from coincurve import PrivateKey

MNEMONIC = "test test test test test test test test test test test junk"
BALANCE = 10_000 * 10**18
"""Wei that each of them has on the chains that we start, as on Anvil."""

_HARDENED = 0x8000_0000
# m/44'/60'/0'/0: the external accounts of Ethereum (BIP-44, SLIP-44).
_PATH = (_HARDENED + 44, _HARDENED + 60, _HARDENED, 0)


@lru_cache
def development_keys(count: int) -> tuple[bytes, ...]:
    """Return the private keys of the mnemonic's first accounts.

    Written out because eth-account takes 0.3 s for what libsecp256k1 does in one millisecond.
    """
    # BIP-39 without a passphrase, and BIP-32's master key.
    seed = hashlib.pbkdf2_hmac("sha512", MNEMONIC.encode(), b"mnemonic", 2048)
    node = hmac.digest(b"Bitcoin seed", seed, "sha512")
    for index in _PATH:
        node = _child(node, index)
    return tuple(_child(node, index)[:32] for index in range(count))


def _child(node: bytes, index: int) -> bytes:
    """Derive a key (32 bytes) and its chain code (32 bytes) from its parent's (BIP-32, CKDpriv)."""
    key, code = PrivateKey(node[:32]), node[32:]
    parent = b"\0" + key.secret if index >= _HARDENED else key.public_key.format()
    derived = hmac.digest(code, parent + index.to_bytes(4), "sha512")
    return key.add(derived[:32]).secret + derived[32:]
