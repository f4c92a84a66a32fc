"""Single values that replace those of a config, by dotted key."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedmeta.errors import ConfigError
from fedmeta.files import parse_toml


def merge(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with each dotted key of `settings` replaced, in their order.

    A table replaces the whole one that was there; keys below it may be set after it.

    Raises:
        ConfigError: If a dotted key goes through something that is no table, or a table would undo an
            earlier setting of a key below it.
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for place, (key, value) in enumerate(settings.items()):
        for below in (one for one in list(settings)[:place] if one.startswith(f"{key}.")):
            raise ConfigError(
                f"'{key}' replaces the whole table, and '{below}' that was set before it would be lost: "
                f"set '{below}' after it, or the keys of '{key}' one by one"
            )
        *tables, last = key.split(".")
        here = merged
        for depth, table in enumerate(tables):
            inner = here.get(table, {})
            if not isinstance(inner, Mapping):
                path = ".".join(tables[: depth + 1])
                raise ConfigError(f"unknown key '{key}': '{path}' is a value, not a table")
            here[table] = here = dict(inner)
        here[last] = value
    return merged


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs of the command line; a value is TOML, or else plain text.

    Raises:
        ConfigError: If a pair has no ``=`` or no key, or its value goes on with another key.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-s {pair}: expected key=value, such as -s rounds=100")
        # Said again, a key counts where it was said last: a table before it does not undo it then.
        settings.pop(key.strip(), None)
        settings[key.strip()] = _value(key.strip(), text)
    return settings


def _value(key: str, text: str) -> Any:
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError:
        return text
    value = parsed.pop("value")
    for other in parsed:
        raise ConfigError(
            f"-s {key}: its value has a further line that sets '{other}': give each key an -s of its own"
        )
    return value
