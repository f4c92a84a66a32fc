"""Prints the tables of docs/results.md on Parkinson's telemonitoring: every patient is held out once.

    python docs/make_parkinsons.py [-s key=value ...] [--arms federated,fedavg] [--folds 6] [--seeds 3]

The patients are dealt to folds. For each fold, its patients are the test clients of
simulations/parkinsons.toml, those of the next fold the validation clients, and the rest train. All
methods predict the same recordings of the same tasks. A method's settings are chosen in each fold by
the mean absolute error of the validation patients, for each seed. A patient's error is the mean over
the seeds; intervals are over patients, without those for whom a method diverged with some seed.
"""

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from turns import Values, config_of, interval, mean_of, test, train

from fedmeta.config import Config
from fedmeta.experiment import load_config, parse_settings, planning
from fedmeta.federation import Learner
from fedmeta.tasks import TaskBatch, stream
from fedmeta.tasks.families.parkinsons import Parkinsons
from fedmeta.tasks.objectives.clinical_score import POINTS

PATIENTS = 42
GRIDS: dict[str, dict[str, list[Any]]] = {
    "fedavg": {"local_lr": [0.01, 0.03], "learner.inner_lr": [0.01, 0.03, 0.1]},
}
GRIDS |= {arm: {"learner.inner_lr": [0.01, 0.03, 0.1]} for arm in ("federated", "centralized", "local")}
DIVERGED = 100.0
"""A patient's error in points from which a method diverged; the scale ends at 176."""
PENALTIES = [0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5]
Scores = dict[int, float]
"""The mean absolute error in points of each patient."""
Method = Callable[[TaskBatch, float], Values]
"""Predicts the queries' scores of a task batch, with a penalty."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--arms", default="federated,centralized,local,fedavg")
    parser.add_argument("--folds", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1, help="how many; the first is 0")
    given = parser.parse_args()
    order = [int(one) + 1 for one in stream(0, "folds").permutation(PATIENTS)]
    folds = [order[place :: given.folds] for place in range(given.folds)]
    found: dict[str, Scores] = {}
    chosen: dict[str, Counter[str]] = {}
    for place, fold in enumerate(folds):
        settings = {
            **parse_settings(given.set),
            "data.test_patients": fold,
            "data.validation_patients": folds[(place + 1) % given.folds],
            "test_clients": len(fold),
            "validation_clients": len(folds[(place + 1) % given.folds]),
        }
        by_seed: dict[str, list[tuple[Scores, str]]] = {}
        for seed in range(given.seeds):
            of_seed = {**settings, "seed": seed}
            results = baselines(of_seed)
            results |= {arm: arm_scores(arm, of_seed) for arm in filter(None, given.arms.split(","))}
            for name, result in results.items():
                by_seed.setdefault(name, []).append(result)
        for name, of_method in by_seed.items():
            found[name] = found.get(name, {}) | _mean([scores for scores, _ in of_method])
            chosen.setdefault(name, Counter()).update(setting for _, setting in of_method)
        print(f"fold {place + 1} of {given.folds}", flush=True)
    show(found, chosen)


def _mean(by_seed: Sequence[Scores]) -> Scores:
    """Return the patients' mean errors; infinite if a method diverged with one of the seeds."""
    errors = {patient: [one[patient] for one in by_seed] for patient in by_seed[0]}
    return {patient: math.inf if max(of) > DIVERGED else np.mean(of) for patient, of in errors.items()}


def arm_scores(arm: str, settings: Mapping[str, Any]) -> tuple[Scores, str]:
    """Train an arm with each setting, and return the test scores of the best one, and its setting."""
    candidates = [
        dict(zip(GRIDS[arm], one, strict=True)) for one in itertools.product(*GRIDS[arm].values())
    ]
    states: dict[str, Any] = {}
    best: tuple[float, dict[str, Any], Any] | None = None
    for own in candidates:
        config = config_of("parkinsons", arm, settings, own)
        # Of FedAvg, fine-tuning alone uses the inner rate: it happens after training.
        key = str({name: value for name, value in own.items() if arm != "fedavg" or name == "local_lr"})
        if key not in states:
            states[key] = train(config)
        mean = float(np.mean(list(_scores(config, states[key], "validation").values())))
        if best is None or mean < best[0]:
            best = mean, own, (config, states[key])
    assert best is not None
    return _scores(*best[2], "test"), ", ".join(f"{key} {value}" for key, value in best[1].items())


def _scores(config: Config, state: Any, split: str) -> Scores:
    family = Learner.build(planning.workload(config)).family
    assert isinstance(family, Parkinsons)
    sums = test(config, state, split)
    return {int(family.names[client]): mean_of(one, "mae") for client, one in sums.items()}


def baselines(settings: Mapping[str, Any]) -> dict[str, tuple[Scores, str]]:
    """Return the test scores of methods without meta-learning, and their settings."""
    config = planning.resolve(load_config("parkinsons", settings))
    learner = Learner.build(planning.workload(config))
    family = learner.family
    assert isinstance(family, Parkinsons)
    # The same tasks, of the same recordings, whose only input is the time.
    timed = Learner.build(planning.workload(_with_inputs(config, ["time"])))
    pooled = _pool(family)
    methods: dict[str, tuple[Method, Learner, Sequence[float]]] = {
        "mean of the support scores": (lambda tasks, _: support_mean(tasks), learner, [0.0]),
        "last support score": (lambda tasks, _: last(tasks), learner, [0.0]),
        "straight line through the support scores in time": (line, timed, [0.0, *PENALTIES]),
        "ridge on the voice, training patients": (
            lambda tasks, penalty: ridge(*pooled, penalty)(_x(tasks.query_x)),
            learner,
            PENALTIES,
        ),
        "the same, shifted to the support scores": (
            lambda tasks, penalty: shifted(tasks, ridge(*pooled, penalty)),
            learner,
            PENALTIES,
        ),
        "ridge on the voice, the patient alone": (alone, learner, PENALTIES),
    }
    return {name: _chosen(*method) for name, method in methods.items()}


def _chosen(method: Method, learner: Learner, penalties: Sequence[float]) -> tuple[Scores, str]:
    population = learner.family.population

    def scores(split: Any, penalty: float) -> Scores:
        found = {}
        for client in population.clients(split):
            tasks = learner.evaluation_tasks(client)
            off = np.abs(method(tasks, penalty) - _x(tasks.query_y)[..., 0])
            assert isinstance(learner.family, Parkinsons)
            found[int(learner.family.names[client])] = POINTS * float(off.mean())
        return found

    validation = {one: float(np.mean(list(scores("validation", one).values()))) for one in penalties}
    best = min(validation, key=lambda one: validation[one])
    return scores("test", best), f"penalty {best:g}" if len(penalties) > 1 else "none"


def _with_inputs(config: Config, inputs: list[str]) -> Config:
    return config.model_copy(update={"data": {**config.data, "inputs": inputs}})


def _x(values: Any) -> Values:
    return np.asarray(values.double().numpy())


def _pool(family: Parkinsons) -> tuple[Values, Values]:
    """Return all recordings of the training patients."""
    rows = np.concatenate([np.concatenate(one.rows) for one in family.visits[: family.population.train]])
    return _x(family.x)[rows], _x(family.y)[rows, 0]


def support_mean(tasks: TaskBatch) -> Values:
    """Predict the mean of the support scores."""
    return np.broadcast_to(_x(tasks.support_y).mean(1), tasks.query_y.shape[:2])


def last(tasks: TaskBatch) -> Values:
    """Predict the last support score."""
    return np.broadcast_to(_x(tasks.support_y)[:, -1], tasks.query_y.shape[:2])


def ridge(x: Values, y: Values, penalty: float) -> Callable[[Values], Values]:
    """Fit a ridge regression with an intercept that is not penalised."""
    mean_x, mean_y = x.mean(0), y.mean()
    centred = x - mean_x
    weights = np.linalg.lstsq(
        centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - mean_y), rcond=None
    )[0]
    return lambda asked: (asked - mean_x) @ weights + mean_y


def shifted(tasks: TaskBatch, model: Callable[[Values], Values]) -> Values:
    """Predict by a model, shifted by what it was off on the support set."""
    off = (_x(tasks.support_y)[..., 0] - model(_x(tasks.support_x))).mean(1, keepdims=True)
    return np.asarray(model(_x(tasks.query_x)) + off)


def alone(tasks: TaskBatch, penalty: float) -> Values:
    """Predict by a ridge regression on the support set of each task."""
    sides = zip(_x(tasks.support_x), _x(tasks.support_y), _x(tasks.query_x), strict=True)
    return np.stack([ridge(x, y[:, 0], penalty)(asked) for x, y, asked in sides])


def line(tasks: TaskBatch, penalty: float) -> Values:
    """Predict by a line in time through the support scores."""
    return alone(tasks, penalty)


def show(found: Mapping[str, Scores], chosen: Mapping[str, Counter[str]]) -> None:
    """Print a row for each method: its error, and the difference to the support mean by patient."""
    base = found["mean of the support scores"]
    print("| method | mean absolute error | minus the mean of the support scores | settings, times |")
    print("|---|---|---|---|")
    for name, scores in found.items():
        values = np.array([scores[patient] for patient in base])
        difference = values - np.array(list(base.values()))
        settings = "; ".join(f"{setting}: {count}" for setting, count in chosen[name].items())
        kept = np.isfinite(values)
        without = "" if kept.all() else f" without {(~kept).sum()} of {len(kept)} patients"
        print(
            f"| {name} | {interval(values[kept], 2)}{without} | "
            f"{interval(difference[kept], 2, '+')}{without} | {settings} |"
        )


if __name__ == "__main__":
    main()
