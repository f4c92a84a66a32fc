"""One run from config to results: configuration, run folder, checkpoint and resume."""

from fedmeta.config import (
    Config,
    describe_keys,
    experiment_names,
    load_config,
    parse_settings,
    read_fault_file,
)
from fedmeta.experiment.api import resume, run
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.made_with import versions
from fedmeta.experiment.result import Listener, Result

__all__ = [
    "Config",
    "Listener",
    "Result",
    "RunFolder",
    "describe_keys",
    "experiment_names",
    "load_config",
    "parse_settings",
    "read_fault_file",
    "resume",
    "run",
    "versions",
]
