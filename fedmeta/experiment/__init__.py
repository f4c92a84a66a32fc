"""One run from config to results: configuration, run folder, checkpoint and resume."""

from fedmeta.experiment.config import (
    Config,
    describe_keys,
    experiment_names,
    load_config,
    parse_settings,
    read_fault_file,
)
from fedmeta.experiment.environment import versions
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.result import Listener, Result
from fedmeta.experiment.run import resume, run

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
