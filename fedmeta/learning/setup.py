"""From plain config values to an algorithm with its model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import ALGORITHMS, Algorithm
from fedmeta.learning.compiled import CompiledAlgorithm
from fedmeta.learning.models import build_model, resolve_network
from fedmeta.options import parse_options
from fedmeta.tasks import TaskSpec


@dataclass(frozen=True)
class LearnerSetup:
    """Which algorithm and model, as plain values.

    Attributes:
        algorithm: A registered name or dotted path.
        learner: The algorithm's options.
        model: A registered name, or the dotted path of a `torch.nn.Module` or `Model`.
        network: The model's options; for a `torch.nn.Module` its constructor's keyword arguments.
        transductive: Whether batch norm may take its statistics from the query set.
        compile: Whether `task_updates` is compiled, once per shape of its inputs.
    """

    algorithm: str
    learner: Mapping[str, Any]
    model: str
    network: Mapping[str, Any]
    transductive: bool = True
    compile: bool = False


def resolve_setup(setup: LearnerSetup) -> LearnerSetup:
    """Check the options of `setup` and fill in the defaults, so that a config can be written down whole.

    Raises:
        ConfigError: For an unknown algorithm, model or option, or a bad value.
    """
    options = parse_options(algorithm_kind(setup.algorithm).Options, setup.learner, "learner")
    return replace(
        setup,
        learner=options.model_dump(),
        network=resolve_network(setup.model, setup.network),
    )


def algorithm_kind(name: str) -> type[Algorithm]:
    """Return the algorithm class called `name`.

    Raises:
        ConfigError: If there is none, or it is no `Algorithm`.
    """
    kind = ALGORITHMS.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        raise ConfigError(f"algorithm '{name}' is no subclass of fedmeta.learning.Algorithm")
    return kind


def build_algorithm(setup: LearnerSetup, spec: TaskSpec, seed: int = 0) -> Algorithm:
    """Build the algorithm of `setup` with its model, for tasks of the shape `spec`.

    Args:
        setup: Which algorithm and model.
        spec: The shape of the tasks.
        seed: The run's; what a `torch.nn.Module` holds beside its weights is drawn from it.

    Raises:
        ConfigError: For an unknown name or option, a bad value, or a model that does not fit the tasks.
    """
    kind = algorithm_kind(setup.algorithm)
    options = parse_options(kind.Options, setup.learner, "learner")
    model = build_model(setup.model, setup.network, spec, kind.model_outputs(spec), seed)
    algorithm = kind(options, model, spec, setup.transductive)
    return CompiledAlgorithm(algorithm) if setup.compile else algorithm
