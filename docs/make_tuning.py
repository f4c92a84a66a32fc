"""Tries settings of a comparison's arm on validation clients: rows of a table in docs/results.md.

    python docs/make_tuning.py quickstart fedavg -g local_lr=0.03,0.1,0.3 -g local_steps=1,5,20 \
        -g learner.inner_lr=0.1,0.3,1 -s validation_clients=6 -s cohort=18

Every combination of the grid is trained as `fedmeta compare` would, on as many tasks, and scored on the
validation clients after the last adaptation step by the main measure: mean over the seeds. Test clients
are held out of training, as ever, and never looked at. The grid's last key varies fastest; what only
changes how the trained weights are fine-tuned (`learner.inner_lr` of fedavg and pretrained) is not
trained again.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from fedmeta.comparison.arms import choose
from fedmeta.comparison.plans import plan_arms
from fedmeta.comparison.run_reuse import run_key
from fedmeta.config import Config
from fedmeta.experiment import load_config, parse_settings, planning
from fedmeta.federation import Federation, Learner, merge
from fedmeta.federation.engines.vector import open_vector
from fedmeta.learning import Tensors
from fedmeta.learning.algorithms import FedAvg
from fedmeta.learning.setup import algorithm_kind
from fedmeta.training import WAYS, TrainingSetup, simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("arm")
    parser.add_argument("-g", "--grid", action="append", default=[], metavar="KEY=VALUE,VALUE,...")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    given = parser.parse_args()
    settings = parse_settings(given.set)
    if given.arm not in load_config(given.experiment, settings).compare.arms:
        settings[f"compare.arms.{given.arm}"] = {}
    grid = {key: parse_settings([f"v=[{values}]"])["v"] for key, values in map(_pair, given.grid)}
    candidates = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    planned = [_configs(given.experiment, given.arm, settings, one, given.seeds) for one in candidates]
    groups = _groups(config for configs in planned for config in configs)
    with ProcessPoolExecutor(given.jobs) as pool:
        scores = dict(itertools.chain.from_iterable(pool.map(_scored, groups)))
    means = [statistics.mean(scores[run_key(config)] for config in configs) for configs in planned]
    for candidate, configs, mean in zip(candidates, planned, means, strict=True):
        cells = [str(value) for value in candidate.values()]
        by_seed = ", ".join(f"{scores[run_key(config)]:.3f}" for config in configs)
        best = "**" if mean == max(means) else ""
        print(f"| {' | '.join([given.arm, *cells])} | {best}{mean:.3f}{best} ({by_seed}) |")


def _pair(text: str) -> tuple[str, str]:
    key, _, values = text.partition("=")
    return key, values


def _configs(
    experiment: str, arm: str, settings: Mapping[str, Any], candidate: Mapping[str, Any], seeds: int
) -> tuple[Config, ...]:
    own = {f"compare.arms.{arm}.{key}": value for key, value in candidate.items()}
    config = load_config(experiment, {**settings, **own})
    arms, _ = choose(planning.resolve(config), [arm])
    return plan_arms(config, arms, range(config.seed, config.seed + seeds))[0].configs


def _groups(configs: Iterable[Config]) -> list[list[Config]]:
    """Return the configs that share what is trained."""
    groups: dict[str, list[Config]] = {}
    for config in configs:
        fine_tuned = issubclass(algorithm_kind(config.algorithm), FedAvg) or not config.rounds
        trained = config.model_copy(update={"learner": {}}) if fine_tuned else config
        groups.setdefault(run_key(trained), []).append(config)
    return list(groups.values())


def _scored(configs: list[Config]) -> list[tuple[str, float]]:
    """Train once, and return each config's score on the validation clients: higher is better."""
    state = _train(configs[0])
    return [(run_key(config), _score(config, state)) for config in configs]


def _train(config: Config) -> Tensors:
    config = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"track": 0, "every": 0})}
    )
    workload, plan = planning.workload(config), planning.plan(config)
    if not config.rounds:
        return Learner.build(workload).init_state()
    return simulate(workload, plan, observer=lambda *_: None, training=config.training).state


def _score(config: Config, state: Tensors) -> float:
    learner = Learner.build(planning.workload(config))
    with open_vector(learner) as grid:
        setup = TrainingSetup(Federation(learner, grid, in_turn=True), planning.plan(config))
        sums = WAYS.get(config.training)(setup).test(state, "validation")
    last = merge(config.evaluation.steps, sums.values(), learner.evaluation_measures)[-1]
    value = last.measures[last.main].mean
    score = value if last.scale.higher_is_better else -value
    return score if math.isfinite(score) else -math.inf


if __name__ == "__main__":
    main()
