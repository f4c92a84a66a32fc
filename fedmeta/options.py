"""Validated options, and the one-line messages that refuse a wrong one."""

import inspect
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedmeta.errors import ConfigError
from fedmeta.files import one_line


class Options(BaseModel):
    """Base of all option groups: immutable, closed to unknown keys, and strict about types.

    A whole number is accepted where a real one is meant and nothing else is converted, so that
    ``rounds = true`` is a mistake. A field of tuples, which TOML writes as lists, needs
    ``Field(strict=False)``.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


OptionsT = TypeVar("OptionsT", bound=BaseModel)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint that names the choice closest to `word`, or lists them all if none is close."""
    known = sorted(choices)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "choose from: " + ", ".join(known) if known else "there is nothing to choose from"


def parse_options(kind: type[OptionsT], values: Mapping[str, Any], where: str = "") -> OptionsT:
    """Build `kind` from plain values.

    Args:
        kind: The options class.
        values: Keys and values as read from TOML or the command line.
        where: The dotted path of this group in the config, such as ``data``; used in messages.

    Raises:
        ConfigError: For the first unknown key or bad value, in one line that names its full path.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_first_problem(kind, error, where)) from None


def _first_problem(kind: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    full = [_shortened(str(part)) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        key = ".".join([where, *full] if where else full)
        return f"unknown key '{key}': {nearest(full[-1], _fields_at(kind, full[:-1]))}"
    path = _to_field(kind, full)
    key = ".".join([where, *path] if where else path)
    if first["type"] == "missing":
        return f"missing key '{key}'"
    reason = _PLAIN_WORDS.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
    reason = reason[:1].lower() + reason[1:]
    # A whole group's value says less than the reason does.
    got = "" if isinstance(first["input"], Mapping) else f" (got {_shortened(repr(first['input']))})"
    return f"{key}: {reason}{got}" if key else reason


def _shortened(text: str) -> str:
    return one_line(text, 200)


_PLAIN_WORDS = {
    "model_type": "must be a table of keys",
    "dict_type": "must be a table of keys",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}


def _to_field(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Cut an error's location after the field and its list position: union members follow."""
    kept: list[str] = []
    for depth, part in enumerate(path):
        field = kind.model_fields.get(part)
        kept.append(part)
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return kept + [position for position in path[depth + 1 :] if position.isdigit()]
        kind = nested
    return kept


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the nested options class that `path` leads to."""
    for part in path:
        field = kind.model_fields.get(part)
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        kind = nested
    return list(kind.model_fields)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the ``Attributes:`` section of a class's docstring says of each attribute."""
    docs: dict[str, str] = {}
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    for line in section.splitlines():
        if match := re.match(r" {4}(\w+): (.*)", line):
            name = match[1]
            docs[name] = match[2]
        elif docs and line.startswith(" " * 8):
            docs[name] += " " + line.strip()
        elif line.strip():
            break
    return docs
