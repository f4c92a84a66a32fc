"""Compiled contracts: Solidity's ABI, artifacts and custom errors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode as _decode
from eth_abi.abi import encode as _encode
from eth_abi.exceptions import DecodingError, EncodingError

from fedmeta.chain.errors import RevertedError
from fedmeta.chain.hashing import from_address, keccak, to_address
from fedmeta.errors import RunError

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


NAMES = ("FedToken", "RewardLedger", "ParticipantRegistry")

# What the compiler itself reverts with.
_BUILT_IN: tuple[Entry, ...] = (
    {"name": "Error", "inputs": [{"type": "string"}]},
    {"name": "Panic", "inputs": [{"type": "uint256"}]},
)


@dataclass(frozen=True)
class Artifact:
    """A compiled contract.

    Attributes:
        name: Such as ``RewardLedger``.
        abi: As the compiler wrote it.
        bytecode: Creation code, without constructor arguments.
        deployed: Code on the chain, with zeros where immutables go.
        immutables: Byte ranges (start, length) of the immutables in it.
        compiler: Version and settings.
        source_hash: Of the sources it was made from.
    """

    name: str
    abi: tuple[Entry, ...]
    bytecode: bytes
    deployed: bytes
    immutables: tuple[tuple[int, int], ...]
    compiler: Mapping[str, Any]
    source_hash: str

    @cached_property
    def code_hash(self) -> bytes:
        """Keccak-256 of the deployed code with zeros for immutables."""
        return keccak(self.deployed)

    def matches(self, code: bytes) -> bool:
        """Return whether `code`, as on a chain, is this contract, whatever its immutables."""
        if len(code) != len(self.deployed):
            return False
        masked = bytearray(code)
        for start, length in self.immutables:
            masked[start : start + length] = bytes(length)
        return bytes(masked) == self.deployed

    def encode(self, function: str, *arguments: object) -> bytes:
        """Return the call data of a function; a struct is a tuple.

        Raises:
            ValueError: If the arguments do not fit the function.
        """
        entry = self._function(function, len(arguments))
        return selector(entry) + encode(entry["inputs"], arguments)

    def decode(self, function: str, data: bytes) -> tuple[Any, ...]:
        """Return what a function returned; structs as tuples, addresses checksummed.

        Raises:
            ValueError: If `data` is something else.
        """
        return decode(self._function(function)["outputs"], data)

    def creation(self, *arguments: object) -> bytes:
        """Return the data of the transaction that deploys it.

        Raises:
            ValueError: If the arguments do not fit the constructor.
        """
        inputs = [entry["inputs"] for entry in self.abi if entry["type"] == "constructor"]
        return self.bytecode + encode(inputs[0] if inputs else [], arguments)

    def topic(self, event: str) -> str:
        """Return the first topic of an event, as 0x text."""
        return "0x" + keccak(signature(self._event(event)).encode()).hex()

    def decode_log(self, event: str, log: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of an event by name.

        Args:
            event: Its name.
            log: As JSON-RPC gives it, with ``topics`` and ``data``.

        Raises:
            ValueError: If it is another event, or malformed.
        """
        inputs = self._event(event)["inputs"]
        topics, data = (
            (bytes.fromhex(topic[2:]) for topic in log["topics"]),
            bytes.fromhex(log["data"][2:]),
        )
        if "0x" + next(topics, b"").hex() != self.topic(event):
            raise ValueError(f"not the event {event}")
        plain = iter(decode([i for i in inputs if not i["indexed"]], data))
        return {
            i["name"]: decode_topic(i, next(topics)) if i["indexed"] else next(plain) for i in inputs
        }

    def _function(self, name: str, arity: int | None = None) -> Entry:
        for entry in self.abi:
            named = entry["type"] == "function" and entry["name"] == name
            if named and arity in (None, len(entry["inputs"])):
                return entry
        raise ValueError(f"{self.name} has no function {name} of so many arguments")

    def _event(self, name: str) -> Entry:
        for entry in self.abi:
            if entry["type"] == "event" and entry["name"] == name:
                return entry
        raise ValueError(f"{self.name} has no event {name}")


@lru_cache
def load_artifact(name: str) -> Artifact:
    """Return a shipped contract: one of `NAMES`.

    Raises:
        RunError: If the package is incomplete or damaged.
    """
    path = files("fedmeta.chain") / "artifacts" / f"{name}.json"
    try:
        return parse_artifact(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the package's {path} is damaged or missing ({error}): install it again"
        ) from None


def parse_artifact(content: Mapping[str, Any]) -> Artifact:
    """Return the artifact that a file's content describes.

    Raises:
        KeyError: If a field is missing.
        ValueError: If a field is malformed.
    """
    ranges = {
        (int(place["start"]), int(place["length"]))
        for places in content["immutableReferences"].values()
        for place in places
    }
    artifact = Artifact(
        name=content["name"],
        abi=tuple(content["abi"]),
        bytecode=bytes.fromhex(content["bytecode"][2:]),
        deployed=bytes.fromhex(content["deployedBytecode"][2:]),
        immutables=tuple(sorted(ranges)),
        compiler=content["compiler"],
        source_hash=content["sourceHash"],
    )
    if any(start + length > len(artifact.deployed) for start, length in ranges):
        raise ValueError("immutables beyond the end of the code")
    return artifact


def explain_revert(data: bytes) -> RevertedError:
    """Return the error that a contract's revert data stands for."""
    entry = _refusals().get(data[:4])
    if entry is not None:
        try:
            return RevertedError(entry["name"], decode(entry["inputs"], data[4:]), data)
        except ValueError:
            pass
    return RevertedError("", (), data)


@lru_cache
def _refusals() -> dict[bytes, Entry]:
    """Custom errors of all our contracts by selector: one contract passes on what another says."""
    entries = [entry for name in NAMES for entry in load_artifact(name).abi if entry["type"] == "error"]
    return {selector(entry): entry for entry in (*_BUILT_IN, *entries)}
