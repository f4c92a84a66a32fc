"""Keccak-256, and addresses as text and bytes."""

from Crypto.Hash import keccak as _keccak


def keccak(data: bytes) -> bytes:
    """Return the Keccak-256 hash of `data`, 32 bytes."""
    return _keccak.new(digest_bits=256, data=data).digest()


def to_address(raw: bytes) -> str:
    """Return 20 bytes as a checksummed address (EIP-55)."""
    digits = raw.hex()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(mark, 16) > 7 else digit for digit, mark in zip(digits, marks, strict=False)
    )


def from_address(address: str) -> bytes:
    """Return the 20 bytes of an address.

    Raises:
        ValueError: If it is not ``0x`` and 40 hexadecimal digits.
    """
    if len(address) != 42 or address[:2] != "0x":
        raise ValueError(f"not an address: {address!r}")
    return bytes.fromhex(address[2:])
