"""Experiment configuration: keys, defaults, and TOML files."""

from fedmeta.config.schema import Config, describe_keys
from fedmeta.config.toml import (
    experiment_names,
    from_toml,
    load_config,
    merge,
    parse_settings,
    read_fault_file,
    to_toml,
)

__all__ = [
    "Config",
    "describe_keys",
    "experiment_names",
    "from_toml",
    "load_config",
    "merge",
    "parse_settings",
    "read_fault_file",
    "to_toml",
]
