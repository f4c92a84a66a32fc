"""Trains a run's rounds and tests what came of them, in the way that its config names."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedmeta.config import Config
from fedmeta.experiment import planning
from fedmeta.federation import Federation, Rewards, Snapshot, StepResult, merge
from fedmeta.learning import Tensors, expand_state
from fedmeta.training import WAYS, TrainingSetup, Way


def build_way(config: Config, federation: Federation, start: Snapshot | None, rewards: Rewards) -> Way:
    """Build the way to train that `config.training` names.

    Args:
        config: The run's config.
        federation: Leads to its clients.
        start: Where the run stood; None: at its beginning.
        rewards: How clients are known and paid, where they are.
    """
    left = start is None or start.round < config.rounds
    setup = TrainingSetup(federation, planning.plan(config), start if left else None, rewards)
    return WAYS.get(config.training)(setup)


def model_per_client(config: Config) -> bool:
    """Return whether each training client of a run has a model of its own."""
    return WAYS.get(config.training).model_per_client


def initial_state(config: Config, state: Tensors) -> Tensors:
    """Return what a run begins with, from the state that all begin with."""
    return expand_state(state, planning.population(config).train) if model_per_client(config) else state


@dataclass(frozen=True)
class Tested:
    """What the final test came to.

    Attributes:
        steps: Means over the tasks of all test clients, with intervals, by adaptation step.
        clients: The same for each test client alone.
    """

    steps: tuple[StepResult, ...]
    clients: Mapping[int, tuple[StepResult, ...]]


def final_test(config: Config, way: Way, state: Tensors) -> Tested:
    """Evaluate a trained state on the test clients.

    Raises:
        RunError: If no test client could be evaluated.
    """
    sums, steps = way.test(state, "test"), config.evaluation.steps
    return Tested(
        merge(steps, sums.values(), config.test_clients),
        {client: merge(steps, [one]) for client, one in sums.items()},
    )
