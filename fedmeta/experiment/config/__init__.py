"""One experiment's configuration: every key, its default, and what it means."""

from fedmeta.experiment.config.files import (
    experiment_names,
    from_toml,
    load_config,
    read_fault_file,
    to_toml,
)
from fedmeta.experiment.config.keys import describe_keys
from fedmeta.experiment.config.model import Config
from fedmeta.experiment.config.settings import merge, parse_settings

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
