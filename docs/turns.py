"""Trains arms of a comparison on given splits: shared by docs/make_parkinsons.py and make_speech.py."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from fedmeta.comparison.arms import choose
from fedmeta.comparison.plans import plan_arms
from fedmeta.config import Config
from fedmeta.experiment import load_config, planning
from fedmeta.federation import EvaluationSums, Federation, Learner
from fedmeta.federation.engines.vector import open_vector
from fedmeta.learning import Tensors
from fedmeta.training import WAYS, TrainingSetup, simulate

Values = NDArray[np.float64]


def config_of(experiment: str, arm: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> Config:
    """Return the config of an arm with settings of its own, as `fedmeta compare` would run it."""
    changes = {f"compare.arms.{arm}.{key}": value for key, value in own.items()}
    if arm not in load_config(experiment, settings).compare.arms:
        changes = {f"compare.arms.{arm}": {}, **changes}
    config = load_config(experiment, {**settings, **changes})
    return plan_arms(config, choose(planning.resolve(config), [arm])[0], [config.seed])[0].configs[0]


def train(config: Config) -> Tensors:
    """Train, without evaluations on the way."""
    changes = {"evaluation": config.evaluation.model_copy(update={"track": 0, "every": 0})}
    config = config.model_copy(update=changes)
    if not config.rounds:
        return Learner.build(planning.workload(config)).init_state()
    workload, plan = planning.workload(config), planning.plan(config)
    return simulate(workload, plan, observer=lambda *_: None, training=config.training).state


def test(config: Config, state: Tensors, split: Any) -> dict[int, EvaluationSums]:
    """Evaluate a trained state on the clients of a split."""
    learner = Learner.build(planning.workload(config))
    with open_vector(learner) as grid:
        setup = TrainingSetup(Federation(learner, grid, in_turn=True), planning.plan(config))
        return dict(WAYS.get(config.training)(setup).test(state, split))


def mean_of(sums: EvaluationSums, measure: str, step: int = -1) -> float:
    """Return a client's mean of an error or accuracy; infinite if a task diverged."""
    return math.inf if sums.diverged[step] else sums.sums[measure][step] / sums.tasks


def interval(values: Values, digits: int, sign: str = "") -> str:
    """Return the mean of clients' values and its 95% interval."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():{sign}.{digits}f} ± {half:.{digits}f}"
