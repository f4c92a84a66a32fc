"""Solidity's ABI as compilers describe it: signatures, selectors, and values in and out."""

from collections.abc import Mapping, Sequence
from typing import Any

from eth_abi.abi import decode as _decode
from eth_abi.abi import encode as _encode
from eth_abi.exceptions import DecodingError, EncodingError

from fedmeta.chain.hashing import from_address, keccak, to_address

Parameter = Mapping[str, Any]
Entry = Mapping[str, Any]


def type_of(parameter: Parameter) -> str:
    """Return a parameter's canonical type, structs as tuples: ``(address,uint256)[]``."""
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(type_of(part) for part in parameter["components"]) + ")" + kind[len("tuple") :]


def signature(entry: Entry) -> str:
    """Return the canonical signature of a function, event or error: ``claim(address,uint256)``."""
    return str(entry["name"]) + "(" + ",".join(type_of(parameter) for parameter in entry["inputs"]) + ")"


def selector(entry: Entry) -> bytes:
    """Return the 4 bytes that name a function or an error."""
    return keccak(signature(entry).encode())[:4]


def encode(parameters: Sequence[Parameter], values: Sequence[object]) -> bytes:
    """Return the encoding of `values`; a struct is a tuple.

    Raises:
        ValueError: If they do not fit the types.
    """
    try:
        return _encode([type_of(parameter) for parameter in parameters], values)
    except (EncodingError, TypeError) as error:
        raise ValueError(f"not values of these types: {error}") from None


def decode(parameters: Sequence[Parameter], data: bytes) -> tuple[Any, ...]:
    """Return the values in `data`; structs as tuples, addresses checksummed.

    Raises:
        ValueError: If `data` is no encoding of these types.
    """
    try:
        values = _decode([type_of(parameter) for parameter in parameters], data)
    except DecodingError as error:
        raise ValueError(f"not an encoding of these types: {error}") from None
    return tuple(_plain(p, value) for p, value in zip(parameters, values, strict=True))


def decode_topic(parameter: Parameter, topic: bytes) -> Any:
    """Return an indexed argument; of one that takes more than a word there is only the hash."""
    kind = type_of(parameter)
    if kind in ("string", "bytes") or kind.endswith((")", "]")):
        return topic
    return decode([parameter], topic)[0]


def _plain(parameter: Parameter, value: Any) -> Any:
    kind = str(parameter["type"])
    if kind.endswith("]"):
        inner = {**parameter, "type": kind[: kind.rindex("[")]}
        return tuple(_plain(inner, item) for item in value)
    if kind == "tuple":
        return tuple(_plain(p, item) for p, item in zip(parameter["components"], value, strict=True))
    return to_address(from_address(value)) if kind == "address" else value
