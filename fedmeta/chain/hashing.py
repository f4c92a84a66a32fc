"""Keccak-256, and addresses as text and bytes.

The address functions are our own, as rounds have thousands of accounts: eth-utils takes 4 times as long
to checksum an address, and 13 times to parse one.
"""

import os
from binascii import unhexlify
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec

if find_spec("sha3"):
    # eth-hash by default chooses pycryptodome, which takes seven times as long.
    os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")

from eth_hash.auto import keccak

__all__ = ["created_address", "from_address", "keccak", "to_address"]


@lru_cache(maxsize=1 << 16)
def to_address(raw: bytes) -> str:
    """Return 20 bytes as a checksummed address (EIP-55); cached, as it takes a hash."""
    if len(raw) != 20:
        raise ValueError(f"an address has 20 bytes, not {len(raw)}")
    digits = raw.hex()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if mark > "7" else digit for digit, mark in zip(digits, marks, strict=False)
    )


def from_address(address: str) -> bytes:
    """Return the 20 bytes of an address: ``0x`` and 40 hexadecimal digits, or a `ValueError`."""
    if len(address) == 42 and address.startswith("0x"):
        with suppress(ValueError):
            # Stricter than bytes.fromhex, which allows spaces.
            return unhexlify(address[2:])
    raise ValueError(f"not an address: {address!r}")


def created_address(sender: str, nonce: int) -> str:
    """Return the address of a contract created by a transaction of `sender` with this nonce."""
    from web3.utils import get_create_address

    return get_create_address(sender, nonce)  # type: ignore[arg-type]
