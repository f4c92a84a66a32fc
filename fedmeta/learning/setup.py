"""Builds an algorithm with its model from plain config values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from torch import nn

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import ALGORITHMS, MODELS, Algorithm, Model
from fedmeta.learning.compiled import compile_updates
from fedmeta.learning.module import ModuleModel
from fedmeta.learning.native.kernel import KernelPlan, build_kernel
from fedmeta.options import Options, parse_options
from fedmeta.tasks import TaskSpec


def build_model(
    name: str, network: Mapping[str, Any], spec: TaskSpec, outputs: int | None, seed: int = 0
) -> Model:
    """Build the network called `name`, with `outputs` outputs (None: an embedding without a head).

    The constants of a `torch.nn.Module`, such as frozen layers, are drawn from `seed`.

    Raises:
        ConfigError: For an unknown model or option, or a model that does not fit the tasks.
    """
    part = _part(name)
    if issubclass(part, nn.Module):
        return ModuleModel(part, network, spec, outputs, seed)
    if spec.graph is not None and not getattr(part, "reads_graphs", False):
        raise ConfigError(
            f"model '{name}' cannot read graphs, which the task's inputs are; choose 'mpn'"
        )
    model: Model = part(parse_options(part.Options, network, "network"), spec, outputs)
    return model


def resolve_network(name: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's options with the defaults filled in, as plain values.

    A `torch.nn.Module` has no declared options: its keyword arguments are returned unchanged.

    Raises:
        ConfigError: For an unknown model or option, or a bad value.
    """
    part = _part(name)
    if issubclass(part, nn.Module):
        return dict(network)
    resolved: dict[str, Any] = parse_options(part.Options, network, "network").model_dump()
    return resolved


def _part(name: str) -> Any:
    part = MODELS.get(name)
    options = getattr(part, "Options", None)
    declared = isinstance(options, type) and issubclass(options, Options)
    if not isinstance(part, type) or not (declared or issubclass(part, nn.Module)):
        raise ConfigError(f"model '{name}' is neither a torch.nn.Module class nor a fedmeta model class")
    return part


def has_kernel(name: str) -> bool:
    """Return whether the model called `name` has native kernels; no user's code is imported."""
    return name in MODELS and hasattr(_part(name), "kernel_plan")


@dataclass(frozen=True)
class AlgorithmSetup:
    """The choice of algorithm and model, as plain values.

    Attributes:
        algorithm: A registered name or dotted path.
        learner: The algorithm's options.
        model: A registered name, or the dotted path of a `torch.nn.Module` or `Model`.
        network: The model's options; for a `torch.nn.Module` its constructor's keyword arguments.
        transductive: Whether batch norm may take its statistics from the query set.
        kernels: What computes gradients on the CPU: ``native``, compiled kernels of the built-in models,
            or ``eager``, autograd.
        compile: Whether to compile `task_updates`, once per shape of its inputs.
        head: A scikit-learn estimator that is fitted to features at test, see `FittedHead`; empty: none.
    """

    algorithm: str
    learner: Mapping[str, Any]
    model: str
    network: Mapping[str, Any]
    transductive: bool = True
    kernels: str = "eager"
    compile: bool = False
    head: str = ""


def resolve_setup(setup: AlgorithmSetup) -> AlgorithmSetup:
    """Check the options of `setup` and fill in the defaults, so that a saved config is complete.

    Raises:
        ConfigError: For an unknown algorithm, model or option, or a bad value.
    """
    owner = f"algorithm '{setup.algorithm}'"
    options = parse_options(algorithm_kind(setup.algorithm).Options, setup.learner, "learner", owner)
    return replace(
        setup,
        learner=options.model_dump(),
        network=resolve_network(setup.model, setup.network),
    )


def algorithm_kind(name: str) -> type[Algorithm]:
    """Return the algorithm class called `name`.

    Raises:
        ConfigError: If there is none, or it is not an `Algorithm`.
    """
    kind = ALGORITHMS.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        raise ConfigError(f"algorithm '{name}' is not a subclass of fedmeta.learning.Algorithm")
    if "support_x" in signature(kind.adapt).parameters:
        raise ConfigError(
            f"algorithm '{name}' is for an earlier version: adapt and trajectory now take a dict of "
            "tensors, `support`, instead of support_x and support_y, and predict takes such a dict too"
        )
    return kind


def build_algorithm(setup: AlgorithmSetup, spec: TaskSpec, seed: int = 0) -> Algorithm:
    """Build the algorithm of `setup` with its model, for tasks of the shape `spec`.

    Args:
        setup: The choice of algorithm and model.
        spec: The shape of the tasks.
        seed: The run's seed, from which a `torch.nn.Module`'s constants are drawn.

    Raises:
        ConfigError: For an unknown name or option, a bad value, a model that does not fit the tasks, or
            native kernels that are not available here.
    """
    kind = algorithm_kind(setup.algorithm)
    options = parse_options(kind.Options, setup.learner, "learner", f"algorithm '{setup.algorithm}'")
    model = build_model(setup.model, setup.network, spec, kind.model_outputs(spec), seed)
    if setup.kernels == "native" and has_kernel(setup.model):
        plan: KernelPlan | None = model.kernel_plan()  # type: ignore[attr-defined]
        model.kernel = build_kernel(plan)
    algorithm = kind(options, model, spec, setup.transductive)
    if setup.compile:
        algorithm = compile_updates(algorithm)
    return with_head(algorithm, setup.head, seed) if setup.head else algorithm


def with_head(algorithm: Algorithm, head: str, seed: int) -> Algorithm:
    """Return an algorithm that fits a scikit-learn estimator at test; see `FittedHead`.

    Raises:
        ConfigError: If `head` does not describe an estimator for these tasks.
    """
    from fedmeta.learning.fitted_head import FittedHead

    return FittedHead(algorithm, head, seed)
