"""The three ways to train that a config can name, behind one interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmeta.config import Config
from fedmeta.experiment import planning
from fedmeta.federation import (
    EvaluationSums,
    Federation,
    Rewards,
    Snapshot,
    StepResult,
    evaluate_clients,
    merge,
    simulate,
)
from fedmeta.learning import Tensors
from fedmeta.training import evaluate_local, train_centralized, train_local

if TYPE_CHECKING:
    from fedmeta.experiment.recorder import Recorder


def train(
    config: Config,
    recorder: "Recorder",
    start: Snapshot | None,
    rewards: Rewards,
    federation: Federation | None = None,
) -> Snapshot:
    """Train from where a run stood to its last round, in the way that ``training`` names.

    Args:
        config: The run's config.
        recorder: Writes down each round.
        start: Where the run stood; None: at its beginning.
        rewards: How clients are known and paid, where there is a federation.
        federation: Where the clients are; None: in this process.

    Raises:
        UsageError: If the parts do not fit each other or data cannot be read.
        RunError: If the run could not go on.
    """
    workload, plan = planning.workload(config), planning.plan(config)
    if config.training == "centralized":
        return train_centralized(workload, plan, recorder.on_round, start)
    if config.training == "local":
        return train_local(workload, plan, recorder.on_round, start)
    if federation:
        return federation.train(plan, recorder.on_round, start, rewards)
    return simulate(
        workload,
        plan,
        start=start,
        observer=recorder.on_round,
        workers=config.workers,
        mods=planning.mods(config),
        rewards=rewards,
        build_grid=planning.grid_builder(config, start),
    )


@dataclass(frozen=True)
class Tested:
    """What the final test came to.

    Attributes:
        steps: Means over the tasks of all test clients, with intervals, by adaptation step.
        clients: The same for each test client alone.
    """

    steps: tuple[StepResult, ...]
    clients: Mapping[int, tuple[StepResult, ...]]


def final_test(config: Config, state: Tensors, federation: Federation | None = None) -> Tested:
    """Evaluate a trained state on the test clients, in this process or where `federation` has them.

    Raises:
        RunError: If no test client could be evaluated.
    """
    workload, steps = planning.workload(config), config.evaluation.steps
    sums: Mapping[int, EvaluationSums]
    if config.training == "local":
        sums = evaluate_local(workload, state, "test")
    elif federation:
        sums = federation.evaluate(state, "test", config.timeout)
    else:
        sums = evaluate_clients(workload, state, "test", config.workers, config.timeout)
    return Tested(
        merge(steps, sums.values(), config.test_clients),
        {client: merge(steps, [one]) for client, one in sums.items()},
    )
