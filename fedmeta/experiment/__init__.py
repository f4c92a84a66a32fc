"""One run from config to results: configuration, run folder, checkpoint and resume."""

from typing import TYPE_CHECKING

from fedmeta.config import (
    Config,
    describe_keys,
    experiment_names,
    load_config,
    parse_settings,
    read_fault_file,
)
from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
    from fedmeta.experiment.api import resume, run
    from fedmeta.experiment.folder import RunFolder
    from fedmeta.experiment.made_with import versions
    from fedmeta.experiment.result import Listener, Result
else:
    __getattr__, __dir__ = lazy_names(__name__)

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
