"""Swapping a part of an experiment by one word: options that only the old part had are left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from fedmeta.config import Config, load_config, merge
from fedmeta.config.parts import require_parts
from fedmeta.errors import ConfigError
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.options import optimizer_arguments
from fedmeta.options import Options, parse_options
from fedmeta.parts import AGGREGATION_RULES, ALGORITHMS, FAMILIES, MODELS
from fedmeta.registry import name_of

Accepts = Callable[[str, Any], bool]
"""Whether a part takes an option with a value."""


@dataclass(frozen=True)
class LeftOut:
    """An option of an experiment that went with the part that it belonged to.

    Attributes:
        path: Its dotted key.
        value: Its value.
        part: The key that names the part, such as ``model``.
        name: The part that is there now.
    """

    path: str
    value: Any
    part: str
    name: str

    def __str__(self) -> str:
        other = f"it belonged to another {self.part} than '{self.name}'"
        return f"{self.path} = {self.value!r} is left out: {other}"


def load(
    experiment: str | Config, settings: Mapping[str, Any] | None = None
) -> tuple[Config, list[LeftOut]]:
    """Read an experiment with settings that may swap its parts.

    Args:
        experiment: A name or TOML path, or a config.
        settings: Values by dotted key that replace the experiment's; none of them is left out.

    Returns:
        The config, and the options of the experiment that are left out.

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
    else:
        config = load_config(experiment, settings, merged)
    require_parts(config)
    return config, left_out


def swapped(
    values: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return `merge` of both without options that a part named by `settings` does not have.

    An option stays if the new part has one of that name which takes the value: ``fomaml`` learns at the
    rate of ``maml``. What `settings` set stays, and is refused later if there is no such option.

    Args:
        values: The experiment's.
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
    """Take those options out of `values` that a part does not have, and return them.

    Args:
        values: Of a config.
        part: The key that names the part, one of `TABLES`.
        may_go: Whether an option may be left out; one that may not is refused later.
    """
    table, name, options = TABLES[part], _name(_at(values, part)), _at(values, TABLES[part])
    if name is None or not isinstance(options, Mapping):
        return []
    try:
        accepts = _ACCEPTS[part](name)
    except ConfigError:
        return []  # the part is refused in its own words where it is built
    gone = [key for key, value in options.items() if may_go(key) and not accepts(key, value)]
    *above, last = table.split(".")
    for key in above:
        values[key] = values = dict(values[key])
    values[last] = {key: value for key, value in options.items() if key not in gone}
    return [LeftOut(f"{table}.{key}", options[key], part, name) for key in gone]


def _declared(kind: type[BaseModel]) -> Accepts:
    """Tell whether an options class has a key that takes the value."""

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
    # The arguments of a torch.nn.Module are not declared: none of another model's is passed to it.
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
