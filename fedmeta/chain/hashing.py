"""Keccak-256, and addresses as text and bytes."""

import os
from binascii import unhexlify
from contextlib import suppress
from typing import Any

try:
    from sha3 import keccak_256  # type: ignore[import-untyped]

    # eth-account and py-evm use eth-hash, which by default chooses the slower one.
    os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
except ModuleNotFoundError:
    # The C module has wheels for Linux only; this fallback takes seven times as long.
    from Crypto.Hash import keccak as _pycryptodome

    def keccak_256(data: bytes) -> Any:
        """Return a hash object, as the C module does."""
        return _pycryptodome.new(digest_bits=256, data=data)


def keccak(data: bytes) -> bytes:
    """Return the Keccak-256 hash of `data`, 32 bytes."""
    digest: bytes = keccak_256(data).digest()
    return digest


def to_address(raw: bytes) -> str:
    """Return 20 bytes as a checksummed address (EIP-55).

    Raises:
        ValueError: If `raw` does not have 20 bytes.
    """
    if len(raw) != 20:
        raise ValueError(f"an address has 20 bytes, not {len(raw)}")
    digits = raw.hex()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if mark > "7" else digit for digit, mark in zip(digits, marks, strict=False)
    )


def from_address(address: str) -> bytes:
    """Return the 20 bytes of an address.

    Raises:
        ValueError: If it is not ``0x`` and 40 hexadecimal digits.
    """
    if len(address) == 42 and address.startswith("0x"):
        with suppress(ValueError):
            # Stricter than bytes.fromhex, which allows spaces.
            return unhexlify(address[2:])
    raise ValueError(f"not an address: {address!r}")
