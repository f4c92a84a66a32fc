"""Validated options, and one-line messages for invalid ones."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedmeta.errors import ConfigError
from fedmeta.files import one_line
from fedmeta.plain_words import either, requirement


class Options(BaseModel):
    """Base class of option groups: immutable, without unknown keys, and strictly typed.

    Only integers are converted, to floats, so ``rounds = true`` is an error. A field of tuples, which
    are lists in TOML, needs ``Field(strict=False)``.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def keys_like(cls, word: str, values: Mapping[str, Any]) -> list[str]:  # noqa: ARG003
        """Return the keys that somebody may mean by an unknown key, besides this class's own.

        Args:
            word: The unknown key.
            values: All values that were given.
        """
        return []


OptionsT = TypeVar("OptionsT", bound=BaseModel)


@dataclass(frozen=True)
class Key:
    """Properties of a config key, in its annotation: ``workers: Annotated[int, Key(resume=True)] = 1``.

    None inherits from the key's table, and at the top level from `USUAL`.

    Attributes:
        resume: Whether it may change when a run is resumed.
        decides: ``result``: what a run computes and pays, so it is part of the run's id; ``place``:
            where and how, so it makes another run but not another id; ``nothing``.
        arm: Arms of a comparison that may differ in it: ``any``; ``none``; ``network``, those with
            another network; ``training``, any if held-out clients have their own key, named ``test_``
            and its name. ``refused``: an arm must not even set it.
        training: The only training way that reads it; empty: all do.
        code: Whether its text may be the dotted path of code.
        before: Value in runs made before the key existed, if that is not its default.
        evaluation: Whether `fedmeta evaluate` may change it, as it decides neither what is learned nor
            which data are held out.
    """

    resume: bool | None = None
    decides: Literal["result", "place", "nothing"] | None = None
    arm: Literal["any", "network", "training", "none", "refused"] | None = None
    training: str | None = None
    code: bool | None = None
    before: str | None = None
    evaluation: bool | None = None

    def within(self, table: "Key") -> "Key":
        """Return the key with its None fields taken from the table."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return Key(**{name: getattr(table, name) if mine[name] is None else mine[name] for name in mine})


USUAL = Key(resume=False, decides="result", arm="any", training="", code=True, evaluation=False)
"""Properties of a key without a `Key` annotation."""


@dataclass(frozen=True)
class Declared:
    """A key, or a table, declared by an options class.

    Attributes:
        path: Its dotted path.
        field: Its type, default and checks.
        key: Its properties, without None fields.
        kind: The class.
    """

    path: str
    field: FieldInfo
    key: Key
    kind: type[BaseModel]

    @property
    def options(self) -> type[BaseModel] | None:
        """The options class of a table; None for a key with a value."""
        return _options_of(self.field)

    @property
    def default(self) -> Any:
        """Its default; `PydanticUndefined` if it has none."""
        return self.field.get_default(call_default_factory=True)

    @property
    def meaning(self) -> str:
        """Its description in the docstring of the class or a base class, and whether it may change."""
        name = self.path.rpartition(".")[2]
        said = next((docs[name] for docs in map(attribute_docs, self.kind.__mro__) if name in docs), "")
        return f"{said} May change on resume." if self.key.resume and said else said


def declared(kind: type[BaseModel], prefix: str = "", table: Key = USUAL) -> tuple[Declared, ...]:
    """Return each key of an options class, a table before its keys.

    Args:
        kind: The class.
        prefix: Prefix of all paths.
        table: Properties of keys without their own.
    """
    # A class that still waits for another has not all of its fields.
    find = _declared if kind.__pydantic_complete__ else _declared.__wrapped__
    return find(kind, prefix, table)


@lru_cache(maxsize=512)
def _declared(kind: type[BaseModel], prefix: str, table: Key) -> tuple[Declared, ...]:
    found: list[Declared] = []
    for name, field in kind.model_fields.items():
        said = next((one for one in field.metadata if isinstance(one, Key)), Key()).within(table)
        found.append(Declared(f"{prefix}{name}", field, said, kind))
        if inner := _options_of(field):
            found += declared(inner, f"{prefix}{name}.", said)
    return tuple(found)


def _options_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


MOST_LISTED = 12
"""Most choices that a message lists in full."""


def nearest(word: str, choices: Iterable[str], prefix: str = "", more: str = "") -> str:
    """Return a hint that names the choice closest to `word`, or lists them if none is close.

    Args:
        word: The given word.
        choices: The valid words.
        prefix: Prefix of the closest choice, such as the table of a key.
        more: Replaces a list of more than `MOST_LISTED` choices; empty: the list is cut short.
    """
    known = sorted(choices)
    lower = {one.lower(): one for one in known}
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    close = close or [lower[one] for one in get_close_matches(word.lower(), lower, n=1, cutoff=0.5)]
    if close:
        return f"did you mean '{prefix}{close[0]}'?"
    if not known:
        return "there is nothing to choose from"
    if len(known) <= MOST_LISTED:
        return "choose from: " + ", ".join(known)
    return more or f"choose from: {', '.join(known[:MOST_LISTED])} and {len(known) - MOST_LISTED} more"


def nearest_beside(path: Path, names: Iterable[str]) -> str:
    """Return the hint of `nearest` for a path that does not exist, from the names in its folder."""
    folder = "" if path.parent == Path() else f"{path.parent}/".replace("//", "/")
    return nearest(path.name, names, folder)


def parse_options(
    kind: type[OptionsT], values: Mapping[str, Any], where: str = "", owner: str = ""
) -> OptionsT:
    """Build `kind` from plain values.

    Args:
        kind: The options class.
        values: Keys and values as read from TOML or the command line.
        where: The dotted path of this group in the config, such as ``data``; used in messages.
        owner: What has these options, such as ``algorithm 'maml'``; used in messages.

    Raises:
        ConfigError: For the first unknown key or bad value, in one line that names its full path.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise _first_problem(kind, error, where, owner, values) from None


def _first_problem(
    kind: type[BaseModel], error: ValidationError, where: str, owner: str, values: Mapping[str, Any]
) -> ConfigError:
    def place(one: ErrorDetails) -> list[str]:
        return [_shortened(str(part)) for part in one["loc"]]

    found = error.errors(include_url=False)
    # A missing key may be a misspelt one.
    unknown = (one for one in found if one["type"] == "extra_forbidden")
    first = next(unknown, found[0]) if found[0]["type"] == "missing" else found[0]
    full = place(first)
    if first["type"] == "extra_forbidden":
        path = [where, *full] if where else full
        key = ".".join(path)
        hint = f"{owner or repr(where)} has no options"
        if kind.model_fields:
            hint = _like(kind, full, "".join(f"{table}." for table in path[:-1]), values)
        return ConfigError(f"unknown key '{key}': {hint}", key)
    path = _to_field(kind, full)
    key = ".".join([where, *path] if where else path)
    if first["type"] == "missing":
        return ConfigError(f"missing key '{key}'", key)
    # A value of several possible types has an error for each.
    reason = either([requirement(one) for one in found if _to_field(kind, place(one)) == path])
    if first["type"] == "model_type" and (table := _kind_at(kind, full)):
        # A part is often given in place of the table that names it.
        texts = [name for name, field in table.model_fields.items() if field.annotation is str]
        reason += f", such as '{key}.{[*texts, *table.model_fields][0]}'"
    if first["type"] == "list_type" and _is_list_of_tables(kind, full):
        reason = f"must be a list of tables, such as {key} = [{{ key = value }}]"
    value = first["input"]
    got = _shortened(repr(value))
    # A whole group would not help, nor a value that the reason names already.
    if key and not isinstance(value, Mapping) and not (isinstance(value, str) and got in reason):
        reason += f" (got {got})"
    return ConfigError(f"{key}: {reason}" if key else reason, key)


def _like(kind: type[BaseModel], path: list[str], tables: str, values: Mapping[str, Any]) -> str:
    """Return a hint for a key that an options class does not have."""
    word = path[-1]
    elsewhere = [one.path for one in declared(kind) if one.path.rpartition(".")[2] == word]
    elsewhere += kind.keys_like(word, values) if issubclass(kind, Options) else []
    if len(path) == 1 and elsewhere:
        return "did you mean " + " or ".join(f"'{other}'" for other in elsewhere) + "?"
    # Tables without a class are checked by their part.
    open_ = [name for name, field in kind.model_fields.items() if field.annotation == dict[str, Any]]
    parts = ", ".join(f"'{name}.{word}'" for name in open_)
    more = f"an option of a part is set in its table ({parts}); " if open_ and len(path) == 1 else ""
    more += "`fedmeta list keys` shows all keys"
    table = _kind_at(kind, path[:-1])
    return nearest(word, table.model_fields if table else (), tables, more)


def _is_list_of_tables(kind: type[BaseModel], path: list[str]) -> bool:
    field = kind.model_fields.get(path[0]) if len(path) == 1 else None
    return field is not None and field.annotation == list[dict[str, Any]]


def _shortened(text: str) -> str:
    return one_line(text, 200)


def _to_field(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Cut an error's location after the field and its list position, where union members follow."""
    kept: list[str] = []
    for depth, part in enumerate(path):
        field = kind.model_fields.get(part)
        kept.append(part)
        nested = _options_of(field) if field else None
        if nested is None:
            return kept + [position for position in path[depth + 1 :] if position.isdigit()]
        kind = nested
    return kept


def _kind_at(kind: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """Return the nested options class at `path`; None if there is none."""
    for part in path:
        field = kind.model_fields.get(part)
        nested = _options_of(field) if field else None
        if nested is None:
            return None
        kind = nested
    return kind


def attribute_docs(kind: type) -> dict[str, str]:
    """Return the descriptions of attributes in the ``Attributes:`` section of a class's docstring."""
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
