"""Keccak-256 and addresses."""

import pytest
from Crypto.Hash import keccak as pycryptodome

from fedmeta.chain.hashing import from_address, keccak, to_address


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        # The hash of nothing, as the yellow paper has it; and the best-known selector.
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"transfer(address,uint256)", "a9059cbb"),
    ],
)
def test_keccak_is_ethereums_and_not_sha3(data: bytes, digest: str) -> None:
    assert keccak(data).hex().startswith(digest)


def test_keccak_agrees_with_the_module_it_falls_back_to() -> None:
    for size in range(0, 300, 7):
        data = bytes(range(256)) * 2
        expected = pycryptodome.new(digest_bits=256, data=data[:size]).digest()
        assert keccak(data[:size]) == expected


@pytest.mark.parametrize(
    "address",
    [
        # The examples of EIP-55.
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
    ],
)
def test_addresses_are_checksummed(address: str) -> None:
    assert to_address(bytes.fromhex(address[2:])) == address
    assert from_address(address.lower()) == bytes.fromhex(address[2:])


@pytest.mark.parametrize("text", ["", "0x", "0x12", "12" * 21, "0x" + "zz" * 20, "0x" + "12" * 21])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        from_address(text)


def test_an_address_has_20_bytes() -> None:
    with pytest.raises(ValueError, match="20 bytes, not 32"):
        to_address(bytes(32))
