"""Single values that replace those of a config, by dotted key."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from fedmeta.errors import ConfigError


def merge(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with each dotted key of `settings` replaced.

    Raises:
        ConfigError: If a dotted key goes through something that is no table.
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for key, value in settings.items():
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
        ConfigError: If a pair has no ``=`` or no key.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-s {pair}: expected key=value, such as -s rounds=100")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text
    return settings
