"""Configs as TOML: the experiments that come with fedmeta, files of a user, and a run's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmeta.errors import ConfigError
from fedmeta.experiment.config.model import Config
from fedmeta.experiment.config.settings import merge
from fedmeta.experiment.trust import require_named
from fedmeta.files import parse_toml, read_toml, reason
from fedmeta.options import nearest, parse_options


def simulations_folder() -> Path:
    """Return the folder of the experiments that come with fedmeta."""
    package = Path(__file__).resolve().parents[2]
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
        raise ConfigError(f"no experiment file at '{name}'{', but a folder' if path.is_dir() else ''}")
    raise ConfigError(f"unknown experiment '{name}': {nearest(name, experiment_names())}")


def load_config(name: str, settings: Mapping[str, Any] | None = None) -> Config:
    """Read an experiment by name or path.

    Args:
        name: A name from `experiment_names`, or the path of a TOML file.
        settings: Values that replace those of the file, by dotted key (``{"server.lr": 0.01}``).

    Raises:
        ConfigError: If it does not exist, is not TOML, or holds an unknown key or a bad value.
        UsageError: If it lies in a run folder that was not made here, and names code or hosts.
    """
    path = find_experiment(name)
    try:
        values = read_toml(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
    config = parse_options(Config, merge(values, settings or {}))
    require_named(path, values, config, settings or {})
    return config


def read_fault_file(path: Path) -> dict[str, Any]:
    """Read a file that holds the keys of a ``[faults]`` table, or such a table.

    Raises:
        ConfigError: If there is none, or it is not TOML; the nearest file beside it is named.
    """
    try:
        values = read_toml(path)
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.toml")]
        hint = f": {nearest(path.name, beside)}" if beside else ""
        raise ConfigError(f"no fault plan at '{path}'{hint}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
    table = values.get("faults", values)
    return dict(table) if isinstance(table, Mapping) else values


def to_toml(config: Config) -> str:
    """Write a config as TOML that `load_config` reads back as an equal one."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def from_toml(text: str) -> Config:
    """Read back what `to_toml` wrote.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"no config: {reason(error)}") from None
    return parse_options(Config, values)


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    # TOML has no null; an absent key means the same to every option that may be None.
    return {key: _value(value) for key, value in table.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(one) for one in value]
    return _without_none(value) if isinstance(value, dict) else value
