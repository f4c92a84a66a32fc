"""A federated meta-learning simulator.

The names below are the library; start with `fedmeta.run`. They are imported on first use, so ``import
fedmeta`` is fast: torch and Flower alone take seconds.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmeta.comparison.compare import (
        CompareListener,
        Comparison,
        Execution,
    )
    from fedmeta.errors import ConfigError, DataError, FedmetaError, RunError, UsageError
    from fedmeta.experiment import Config, RunFolder, load_config
    from fedmeta.experiment.result import Listener, Result
    from fedmeta.federation import Plan, RoundRecord, Snapshot, StepResult, Workload
    from fedmeta.learning import Algorithm, AlgorithmSetup, Model, build_algorithm, expand_state
    from fedmeta.notebook import compare, load, resume, run
    from fedmeta.tasks import Population, TaskBatch, TaskFamily, TaskSpec, build_family
    from fedmeta.tasks.own.from_python import write_data
    from fedmeta.training import evaluate, simulate

    __version__: str
else:
    from fedmeta import lazy as _lazy

    _load, _names = _lazy.lazy_names(__name__)

    def __getattr__(name):
        if name != "__version__":
            return _load(name)
        from importlib.metadata import version

        return version("fedmeta")

    def __dir__():
        return ["__version__", *_names()]


__all__ = [
    "Algorithm",
    "AlgorithmSetup",
    "CompareListener",
    "Comparison",
    "Config",
    "ConfigError",
    "DataError",
    "Execution",
    "FedmetaError",
    "Listener",
    "Model",
    "Plan",
    "Population",
    "Result",
    "RoundRecord",
    "RunError",
    "RunFolder",
    "Snapshot",
    "StepResult",
    "TaskBatch",
    "TaskFamily",
    "TaskSpec",
    "UsageError",
    "Workload",
    "__version__",
    "build_algorithm",
    "build_family",
    "compare",
    "evaluate",
    "expand_state",
    "load",
    "load_config",
    "resume",
    "run",
    "simulate",
    "write_data",
]
