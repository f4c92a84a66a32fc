"""Which config keys may change on resume, count for a run's identity, or vary between arms.

Each key declares this in a `fedmeta.options.Key`; a key without one counts for identity, may not change
on resume, and may differ between arms.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from fedmeta.options import Declared, Key, declared


def resumable(kind: type[BaseModel]) -> list[str]:
    """Return the keys that may change on resume; a table stands for all its keys if all may."""
    found = declared(kind)
    fixed = [one.path for one in found if not (one.key.resume or one.options)]
    may: list[str] = []
    for one in found:
        whole = not any(f"{path}.".startswith(f"{one.path}.") for path in fixed)
        if one.key.resume and whole and not is_within(one.path, may):
            may.append(one.path)
    return may


def is_within(key: str, tables: list[str]) -> bool:
    """Return whether a key is in `keys`, or in a table that is."""
    return any(f"{key}.".startswith(f"{table}.") for table in tables)


def replies_can_be_late(config: BaseModel) -> bool:
    """Return whether the timeout can affect what a round computes."""
    return bool(value_at(config, "faults.any") or value_at(config, "engine") != "vector")


def identity_keys(config: BaseModel, place: bool = False) -> dict[str, Any]:
    """Return the keys that decide a run's result and are not at their defaults, as plain values.

    So a key that a later version adds changes nothing where it is not set.

    Args:
        config: The config.
        place: Whether keys for where and how it is computed and settled count as well.
    """
    what = ("result", "place") if place else ("result",)
    return {
        one.path: plain(value_at(config, one.path))
        for one in declared(type(config))
        if one.options is None
        and one.key.decides in what
        and not is_usual(value_at(config, one.path), one)
        and (one.path != "timeout" or replies_can_be_late(config))
    }


def run_id(config: BaseModel) -> bytes:
    """Return the id of a new run of a config: what it computes and pays, not where.

    SHA-256 over ``fedmeta run 2``, a line feed, and `identity_keys` as JSON without spaces, keys sorted.
    """
    text = json.dumps(identity_keys(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"fedmeta run 2\n{text}".encode()).digest()


def later_settings(config: BaseModel) -> dict[str, Any]:
    """Return the keys that a resume may change and that decide what later rounds compute.

    Whether ``rounds``, ``faults`` and ``timeout`` do depends on the config; other keys count where they
    are set.
    """
    found: dict[str, Any] = {key: value_at(config, key) for key in ("engine", "device")}
    for key in (key for key, decides in _LATER.items() if decides(config)):
        found[key] = to_jsonable_python(value_at(config, key), exclude_none=True)
    for one in declared(type(config)):
        may = one.key.resume and one.key.decides == "result" and one.options is None
        if may and not is_within(one.path, [*_LATER]):
            value = value_at(config, one.path)
            found |= {} if is_usual(value, one) else {one.path: plain(value)}
    return found


def as_before(kind: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved config with the keys that did not exist when it was written."""
    added = {one.path: one.key.before for one in declared(kind) if one.key.before is not None}
    return {**added, **table}


def differing(one: BaseModel, other: BaseModel, own_network: bool) -> Iterator[str]:
    """Yield the keys, except parts' options, whose difference makes two arms incomparable."""

    def changed(path: str) -> bool:
        return bool(value_at(one, path) != value_at(other, path))

    for key in declared(type(one)):
        bound = key.key.arm == "none" or (key.key.arm == "network" and not own_network)
        if bound and not key.options and key.path != "data" and changed(key.path):
            yield key.path


def in_use(config: BaseModel, training: str) -> dict[str, Any]:
    """Return the defaults of changed keys that only one way to train reads."""
    found: dict[str, Any] = {}
    looked: list[str] = []
    for one in declared(type(config)):
        if one.key.training == training and not is_within(one.path, looked):
            looked.append(one.path)
            value = value_at(config, one.path)
            # A fault plan may be set but have no faults.
            if not is_default(value, one.default) and getattr(value, "any", True):
                found[one.path] = {} if one.options else plain(one.default)
    return found


def non_defaults(kind: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a table that differ from their defaults, as plain values."""
    defaults = {one.path: one.default for one in declared(kind)}
    return {
        key: plain(value)
        for key, value in table.items()
        if not is_default(value, defaults.get(key, PydanticUndefined))
    }


def key_at(kind: type[BaseModel], path: str) -> Key:
    """Return what the key at a dotted path may do.

    Raises:
        KeyError: If there is none.
    """
    return {one.path: one.key for one in declared(kind)}[path]


def value_at(config: BaseModel, path: str) -> Any:
    """Return the value at a dotted path."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def is_usual(value: Any, one: Declared) -> bool:
    """Return whether a value is the key's default, or that of runs made before the key existed."""
    return is_default(value, one.default) or (one.key.before is not None and value == one.key.before)


def is_default(value: Any, default: Any) -> bool:
    """Return whether a value equals the default; tuples and lists count as equal."""
    return default is not PydanticUndefined and bool(plain(value) == plain(default))


plain: Callable[[Any], Any] = to_jsonable_python
"""A JSON value."""

_LATER: dict[str, Callable[[Any], bool]] = {
    "rounds": lambda config: bool(config.server.schedule != "constant"),
    "faults": lambda config: bool(config.faults.any),
    "timeout": replies_can_be_late,
}
