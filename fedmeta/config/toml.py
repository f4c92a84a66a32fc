"""Reads and writes configs as TOML, and applies settings by dotted key."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmeta.config.identity import is_within, resumable
from fedmeta.config.schema import Config
from fedmeta.config.trust import require_named
from fedmeta.errors import ConfigError, UsageError
from fedmeta.federation.faults.plan import FaultOptions
from fedmeta.files import parse_toml, read_toml_text, reason
from fedmeta.options import nearest, nearest_beside, parse_options
from fedmeta.toml_text import line_of

Merging = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
Check = Callable[[Config], None]
_MAY_CHANGE = "`fedmeta list keys` marks the keys that may change"
_SECOND = re.compile(r"[,;\s]\s*([a-z_]+)(?:\.[\w.]+)?\s*=")
"""A second key in a value, as in ``rounds=5,cohort=3``."""


def simulations_folder() -> Path:
    """Return the folder of the experiments that come with fedmeta."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_simulations"
    return installed if installed.is_dir() else package.parent / "simulations"


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with fedmeta."""
    return sorted(path.stem for path in simulations_folder().glob("*.toml"))


def find_experiment(name: str) -> Path:
    """Return the file of an experiment: one of ours by name, or a path to a TOML file.

    Raises:
        ConfigError: If there is no such name or file.
    """
    if name in experiment_names():
        return simulations_folder() / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"no experiment file at '{name}'{_instead(path)}")
    if os.path.exists(name):
        raise ConfigError(f"unknown experiment '{name}': {_found(path)}")
    raise ConfigError(f"unknown experiment '{name}': {nearest(name, experiment_names())}")


def _instead(path: Path) -> str:
    """Return the end of a message about a missing file: what was probably meant."""
    if path.is_dir():
        return f": {_found(path)}"
    if path.stem in experiment_names():
        return f": did you mean '{path.stem}', which comes with fedmeta?"
    beside = sorted(path.parent.glob("*.toml"))
    return f": {nearest_beside(path, [one.name for one in beside])}" if beside else ""


def _found(path: Path) -> str:
    """Return what is at a path that is not an experiment, and the command for it."""
    if (path / "config.toml").is_file():
        return f"it is a run; `fedmeta resume {path}` resumes it, {path}/config.toml has its config"
    shown = shlex.quote(str(path))
    if (path / "compare.json").is_file():
        return f"it is a comparison; `fedmeta report {shown}` shows it"
    if path.is_dir() and any((one / "run.json").is_file() for one in path.iterdir()):
        return f"it is a folder of runs; `fedmeta list runs --runs {shown}` lists them"
    what = "folder" if path.is_dir() else "file"
    return f"it is a {what}; `fedmeta init {shown}` writes a config for your own data"


def load_config(
    name: str,
    settings: Mapping[str, Any] | None = None,
    merged: Merging | None = None,
    check: Check | None = None,
) -> Config:
    """Read an experiment by name or path.

    Args:
        name: A name from `experiment_names`, or the path of a TOML file.
        settings: Values that replace those of the file, by dotted key (``{"server.lr": 0.01}``).
        merged: Merges the values of the file with the settings; None: `merge`.
        check: Checks the config further, and raises `ConfigError`.

    Raises:
        ConfigError: If it does not exist, is not TOML, or holds an unknown key or a bad value. If the
            mistake is in the file, the message names the file and, if it can, the line.
        UsageError: If it lies in a run folder that was not made here, and names code or hosts.
    """
    path = find_experiment(name)
    text, values = _read(path)

    def parsed(candidate: Mapping[str, Any], given: Mapping[str, Any]) -> Config:
        config = parse_options(Config, candidate)
        require_named(path, values, config, given)
        if check:
            check(config)
        return config

    given = settings or {}
    try:
        return parsed((merged or merge)(values, given), given)
    except ConfigError as error:
        if error.key and is_within(error.key, [*given]):
            raise
        # If the file alone has the same error, it is not one of the settings.
        try:
            parsed(values, {})
        except UsageError as own:
            if str(own) == str(error):
                raise in_file(path, text, error) from None
        raise


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = read_toml_text(path)
        return text, parse_toml(text)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {reason(error)}") from None


def in_file(path: Path, text: str, error: ConfigError) -> ConfigError:
    """Return an error of a TOML file with the file's path, and the line of the key if it has one."""
    # Other messages start with the key, as in "cohort = 5 is larger than ...".
    line = line_of(text, error.key or str(error).split(" ")[0].strip(":"))
    return ConfigError(f"{path}: line {line}: {error}" if line else f"{path}: {error}", error.key)


def read_fault_file(path: Path) -> dict[str, Any]:
    """Read a file that holds the keys of a ``[faults]`` table, or such a table.

    Raises:
        ConfigError: If there is none, or it is not a fault plan; the nearest file beside it is named.
    """
    try:
        text, values = _read(path)
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.toml")]
        hint = f": {nearest(path.name, beside)}" if beside else ""
        raise ConfigError(f"no fault plan at '{path}'{hint}") from None
    where = "faults" if isinstance(values.get("faults"), Mapping) else ""
    table = dict(values["faults"] if where else values)
    try:
        parse_options(FaultOptions, table, where)
    except ConfigError as error:
        raise in_file(path, text, error) from None
    return table


def to_toml(config: Config, without: Mapping[str, Any] | None = None) -> str:
    """Write a config as TOML that `load_config` reads back as an equal one, except for keys left out.

    Args:
        config: The config.
        without: Keys to leave out, as Pydantic's ``exclude``.
    """
    return tomli_w.dumps(_without_none(config.model_dump(mode="json", exclude=dict(without or {}))))


def from_toml(text: str) -> Config:
    """Read back what `to_toml` wrote.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"not a config: {reason(error)}") from None
    return parse_options(Config, values)


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    # TOML has no null; an absent key means the same to every option that may be None.
    return {key: _value(value) for key, value in table.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(one) for one in value]
    return _without_none(value) if isinstance(value, dict) else value


def merge(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with each dotted key of `settings` replaced, in their order.

    A table replaces the whole one that was there; keys below it may be set after it.

    Raises:
        ConfigError: If a dotted key goes through something that is not a table, or a table would undo an
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


def resumed(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return the config of a run with the changes of a resume.

    Raises:
        ConfigError: If a key may not change then, or has a bad value.
    """
    may = resumable(Config)
    for key in (key for key in settings if not is_within(key, may)):
        if key.split(".")[0] not in Config.model_fields:
            raise ConfigError(f"unknown key '{key}': {nearest(key, may, more=_MAY_CHANGE)}")
        raise ConfigError(
            f"'{key}' cannot be changed on resume: it is fixed when a run is made; {_MAY_CHANGE}"
        )
    changed = parse_options(Config, merge(config.model_dump(), settings))
    if changed.chain.enabled != config.chain.enabled:
        which = "has a ledger" if config.chain.enabled else "has no ledger"
        raise ConfigError(f"chain.provider: this run {which}, and a resume cannot change that")
    if changed.rounds < config.rounds:
        raise ConfigError(f"rounds: a run can only grow (from {config.rounds}, got {changed.rounds})")
    return changed


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs of the command line; a value is TOML or plain text.

    Raises:
        ConfigError: If a pair has no ``=`` or no key, or its value continues with another key.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-s {pair}: expected key=value, such as -s rounds=100")
        # A repeated key counts where it is last, so that an earlier table does not undo it.
        settings.pop(key.strip(), None)
        settings[key.strip()] = _parsed(key.strip(), text)
    return settings


def _parsed(key: str, text: str) -> Any:
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError:
        more = _SECOND.search(text)
        second = more and more[1] in Config.model_fields
        if more and second and not isinstance(_parsed(key, text[: more.start()]), str):
            raise ConfigError(f"{key}={text}: give each key its own -s") from None
        return text
    value = parsed.pop("value")
    for other in parsed:
        raise ConfigError(
            f"-s {key}: its value has a further line that sets '{other}': give each key its own -s"
        )
    return value
