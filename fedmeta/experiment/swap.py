"""Swaps a part of an experiment by its name, and drops options that only the old part had."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from fedmeta.config import Config, load_config, merge
from fedmeta.config.parts import require_parts
from fedmeta.errors import ConfigError
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.round_plan import optimizer_arguments
from fedmeta.options import Options, parse_options
from fedmeta.parts import AGGREGATION_RULES, ALGORITHMS, FAMILIES, MODELS
from fedmeta.registry import name_of

Accepts = Callable[[str, Any], bool]
"""Whether a part accepts an option with a value."""


@dataclass(frozen=True)
class LeftOut:
    """An option of an experiment that was dropped with the part that it belonged to.

    Attributes:
        path: Its dotted key.
        value: Its value.
        part: The key that names the part, such as ``model``.
        name: The new part.
    """

    path: str
    value: Any
    part: str
    name: str

    def __str__(self) -> str:
        other = f"{self.part} '{self.name}' does not have it"
        return f"{self.path} = {self.value!r} is dropped: {other}"


def load(
    experiment: str | Config, settings: Mapping[str, Any] | None = None
) -> tuple[Config, list[LeftOut]]:
    """Read an experiment with settings that may swap its parts.

    Args:
        experiment: A name or TOML path, or a config.
        settings: Values by dotted key that replace the experiment's; none of them is dropped.

    Returns:
        The config, and the options of the experiment that are dropped.

    Raises:
        ConfigError: As `load_config` and `require_parts`.
    """
    left_out: list[LeftOut] = []

    def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        found, gone = swapped(values, changes)
        left_out.extend(gone)
        return found

    if isinstance(experiment, Config):
        config = parse_options(Config, merged(experiment.model_dump(), settings or {}))
        require_parts(config)
    else:
        config = load_config(experiment, settings, merged, require_parts)
    return config, left_out


def swapped(
    values: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return `merge` of both without options that a part named by `settings` does not have.

    An option stays if the new part has one of that name that accepts the value: ``fomaml`` keeps the
    learning rate of ``maml``. Options in `settings` stay, and are refused later if they do not exist.

    Args:
        values: The experiment's values.
        settings: Values by dotted key.
    """
    merged, left_out = merge(values, settings), []
    for part, table in TABLES.items():
        before, now = _name(_at(values, part)), _name(_at(merged, part))
        if part in settings and now != before and table not in settings:
            left_out += leave_out(merged, part, _not_in(table, settings))
    return merged, left_out


def _not_in(table: str, settings: Mapping[str, Any]) -> Callable[[str], bool]:
    typed = {key.removeprefix(f"{table}.").split(".")[0] for key in settings}
    return lambda key: key not in typed


def leave_out(values: dict[str, Any], part: str, may_go: Callable[[str], bool]) -> list[LeftOut]:
    """Remove options that a part does not have from `values`, and return them.

    Args:
        values: A config's values.
        part: The key that names the part, one of `TABLES`.
        may_go: Whether an option may be dropped; others are refused later.
    """
    table, name, options = TABLES[part], _name(_at(values, part)), _at(values, TABLES[part])
    if name is None or not isinstance(options, Mapping):
        return []
    try:
        accepts = _ACCEPTS[part](name)
    except ConfigError:
        return []  # the part itself is refused where it is built
    gone = [key for key, value in options.items() if may_go(key) and not accepts(key, value)]
    *above, last = table.split(".")
    for key in above:
        values[key] = values = dict(values[key])
    values[last] = {key: value for key, value in options.items() if key not in gone}
    return [LeftOut(f"{table}.{key}", options[key], part, name) for key in gone]


def _declared(kind: type[BaseModel]) -> Accepts:
    """Return a function that says whether an options class accepts a key with a value."""

    def accepts(key: str, value: Any) -> bool:
        if key not in kind.model_fields:
            return False
        try:
            kind.model_validate({key: value})
        except ValidationError as error:
            return all(one["loc"][:1] != (key,) for one in error.errors())
        return True

    return accepts


def _part(options: type[Options] | None) -> Accepts:
    # A part of a user's own that declares no options is refused, with its options, where it is built.
    return _declared(options) if options else lambda *_: True


def _model(name: str) -> Accepts:
    # The arguments of a torch.nn.Module are not declared, so those of another model are all dropped.
    options = MODELS.options(name)
    return _declared(options) if options else lambda *_: False


def _rule(name: str) -> Accepts:
    options = AGGREGATION_RULES.options(name) if name in AGGREGATION_RULES else None
    own = options.model_fields if options else {}
    usual = {
        key: field.get_default(call_default_factory=True)
        for key, field in AggregationOptions.model_fields.items()
    }
    return lambda key, value: key == "rule" or key in own or value == usual.get(key)


def _optimizer(name: str) -> Accepts:
    known = optimizer_arguments(name)
    return lambda key, _: key in known


_ACCEPTS: dict[str, Callable[[str], Accepts]] = {
    "task": lambda name: _part(FAMILIES.options(name)),
    "algorithm": lambda name: _part(ALGORITHMS.options(name)),
    "model": _model,
    "aggregation.rule": _rule,
    "server.optimizer": _optimizer,
}
TABLES = {
    "task": "data",
    "algorithm": "learner",
    "model": "network",
    "aggregation.rule": "aggregation",
    "server.optimizer": "server.options",
}
"""The table with the options of each part, by the key that names the part."""


def _name(part: Any) -> str | None:
    if isinstance(part, type):
        try:
            return name_of(part)
        except ConfigError:
            return None
    return part if isinstance(part, str) else None


def _at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
