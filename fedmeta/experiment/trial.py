"""Tries what a user brings to a run before it starts: task family, model, algorithm."""

from dataclasses import replace

import torch

from fedmeta.errors import ConfigError
from fedmeta.experiment.config import Config
from fedmeta.federation import Learner
from fedmeta.federation.vector.execution import one_thread
from fedmeta.learning import ALGORITHMS, MODELS, build_algorithm
from fedmeta.learning.models.trial import try_model
from fedmeta.learning.trial import try_updates
from fedmeta.tasks import FAMILIES, TaskBatch, TaskSpec, stream, torch_generator
from fedmeta.tasks.checked import check_family

ROWS = 4
"""Examples of each class, or of a regression, where tasks must be made up."""


def try_parts(config: Config, learner: Learner) -> None:
    """Try the parts of a config that are not fedmeta's own; what comes with it has tests instead.

    Args:
        config: The resolved config.
        learner: What was built from it.

    Raises:
        ConfigError: If a part would fail or go wrong in the run; it is named.
    """
    own_family = config.task not in FAMILIES
    own_model, own_algorithm = config.model not in MODELS, config.algorithm not in ALGORITHMS
    if own_family and learner.has_data:
        check_family(learner.family, config.seed)
    if not (own_family or own_model or own_algorithm):
        return
    # Compiling takes half a minute, and computes the same.
    setup = replace(learner.workload.learner, compile=False)
    spec = learner.family.spec
    algorithm = build_algorithm(setup, spec, config.seed)
    model, name = f"model '{config.model}'", f"algorithm '{config.algorithm}'"
    with one_thread():
        tasks = _tasks(learner, config)
        if own_model:
            try_model(algorithm.model, tasks.support_x, learner.dtype, algorithm.second_order, model)
        try_updates(algorithm, tasks, learner.dtype, f"{name} with {model}")


def _tasks(learner: Learner, config: Config) -> TaskBatch:
    """Draw two tasks of a training client that can; made-up ones where the data are elsewhere."""
    if not learner.has_data:
        return _made_up(learner.family.spec).to(learner.dtype)
    reason = ""
    for client in learner.family.population.clients("train"):
        try:
            drawn = learner.family.sample(client, 2, stream(config.seed, "check", client))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        return drawn.to(learner.dtype)
    raise ConfigError(f"task '{config.task}': no training client can draw tasks ({reason})")


def _made_up(spec: TaskSpec) -> TaskBatch:
    generator = torch_generator(0, "trial", "tasks")
    rows = ROWS if spec.kind == "regression" or spec.vocabulary else ROWS * spec.outputs
    shape = (2, rows, *spec.input_shape)
    sides = []
    for _ in range(2):
        if spec.vocabulary:
            x = torch.randint(spec.vocabulary, shape, generator=generator)
            sides += [x, torch.randint(spec.outputs, shape, generator=generator)]
            continue
        sides += [torch.randn(shape, generator=generator)]
        if spec.kind == "regression":
            sides += [torch.randn(2, rows, spec.outputs, generator=generator)]
        else:
            sides += [(torch.arange(rows) % spec.outputs).repeat(2, 1)]
    return TaskBatch(*sides)
