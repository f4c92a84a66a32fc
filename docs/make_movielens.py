"""Prints a table of docs/results.md on MovieLens: trained runs beside simpler predictions.

    python docs/make_movielens.py RUN [RUN ...] [-s data.test_shots=5]

The runs must have the same users and shots. All methods predict the same ratings of the same tasks,
those of `fedmeta evaluate`. Penalties of the simpler methods are chosen by the mean absolute error of
the validation users. Intervals are over test users; differences are paired by user.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from turns import Values, interval

import fedmeta
from fedmeta.experiment import parse_settings, planning
from fedmeta.experiment.evaluate import config_to_evaluate
from fedmeta.federation import Learner
from fedmeta.tasks import TaskBatch
from fedmeta.tasks.data.movielens_files import FILM_FEATURES, FILMS, USER_FEATURES
from fedmeta.tasks.families.movielens import MovieLens
from fedmeta.tasks.objectives.ratings import CENTRE, normalised_gain

FEATURES = FILM_FEATURES + USER_FEATURES
Scores = dict[str, Values]
"""The mean absolute error and the gain of each user."""
Method = Callable[[TaskBatch, tuple[float, ...]], Values]
"""Predicts the queries of a batch, ``[T, B]``, with penalties."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--best", action="store_true", help="the checkpoint that validation users chose")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    settings = parse_settings(given.set)
    found = baselines(fedmeta.load(given.runs[0]), settings)
    for run in given.runs:
        learned = fedmeta.load(run, best=given.best)
        evaluated = learned.evaluate(settings)
        for place, step in enumerate(evaluated.steps):
            found[f"{learned.path.name}, {step.step} steps"] = {
                name: np.array([of[place].measures[name].mean for of in evaluated.clients.values()])
                for name in ("mae", "ndcg_5")
            }
    show(found)


def show(found: Mapping[str, Scores]) -> None:
    """Print a row for each method, best error first."""
    rows = sorted(found.items(), key=lambda row: row[1]["mae"].mean())
    reference = found["user's mean and films' offsets"]
    for name, scores in rows:
        cells = []
        for measure in ("mae", "ndcg_5"):
            values = scores[measure]
            cells += [interval(values, 3)]
            cells += [interval(values - reference[measure], 3, "+") if scores is not reference else ""]
        print(f"| {name} | {' | '.join(cells)} |")


@dataclass(frozen=True, eq=False)
class Pool:
    """All ratings of the training users.

    Attributes:
        x: ``[N, 43]``, features with their means removed.
        means: ``[43]``, those means.
        film: ``[N]``.
        y: ``[N]``, stars less 3.5.
        own: ``[N]``, the mean of the rating's user.
    """

    x: Values
    means: Values
    film: Any
    y: Values
    own: Values


def pool_of(family: MovieLens) -> Pool:
    """Gather the training users' ratings."""
    histories = family.histories[: family.population.train]
    places = np.concatenate(histories)
    data = family.data
    y = (data.stars - CENTRE).astype(np.float64)
    x = np.concatenate([data.films[data.film[places]], data.users[data.user[places]]], 1).astype(float)
    own = np.concatenate([np.full(len(one), float(y[one].mean())) for one in histories])
    means = np.asarray(x.mean(0))
    return Pool(x - means, means, data.film[places], y[places], own)


def baselines(learned: Any, settings: Mapping[str, Any]) -> dict[str, Scores]:
    """Return the test users' scores of methods without meta-learning."""
    config = planning.resolve(config_to_evaluate(learned.config, settings))
    # The same tasks, whose inputs also say which film it is.
    config = config.model_copy(update={"data": {**config.data, "film_ids": True}})
    learner = Learner.build(planning.workload(config))
    assert isinstance(learner.family, MovieLens)
    pool = pool_of(learner.family)
    wide, narrow = [1.0, 1e2, 1e3, 1e4], [0.0, 1.0, 3.0, 10.0]
    methods: dict[str, tuple[Method, list[list[float]]]] = {
        "mean of all ratings": (lambda tasks, _: _constant(tasks, pool.y.mean()), []),
        "user's mean": (lambda tasks, _: _constant(tasks, own_mean(tasks)), []),
        "films' means": (
            lambda tasks, p: pool.y.mean() + offsets(pool, p[0], False)[films(tasks.query)],
            [narrow],
        ),
        "user's mean and films' offsets": (lambda tasks, p: both(pool, tasks, *p), [narrow, narrow]),
        "ridge on features": (lambda tasks, p: ridge(pool, p[0])(tasks.query_x), [wide]),
        "ridge on features, shifted to the user": (
            lambda tasks, p: shifted(ridge(pool, p[0]), tasks, p[1]),
            [wide, narrow],
        ),
    }
    return {name: _chosen(learner, *method) for name, method in methods.items()}


def films(half: Mapping[str, torch.Tensor]) -> Any:
    """Return the films of examples, ``[T, B]``."""
    return half["x"][..., FEATURES:].argmax(2).numpy()


def own_mean(tasks: TaskBatch) -> Values:
    """Return the mean of the support ratings, ``[T, 1]``."""
    return np.asarray(tasks.support_y[..., 0].double().mean(1, keepdim=True).numpy())


@lru_cache
def offsets(pool: Pool, penalty: float, from_own: bool = True) -> Values:
    """Return how far films are rated from the users' own means, or from the mean of all ratings."""
    rest = pool.y - (pool.own if from_own else pool.y.mean())
    total, count = np.bincount(pool.film, rest, FILMS), np.bincount(pool.film, minlength=FILMS)
    return np.asarray(total / np.maximum(count + penalty, 1))


def both(pool: Pool, tasks: TaskBatch, film_penalty: float, user_penalty: float) -> Values:
    """Add the films' offsets to what they leave of the user's support ratings."""
    of = offsets(pool, film_penalty)
    return _shifted(lambda half: pool.y.mean() + of[films(half)], tasks, user_penalty)


@lru_cache
def ridge(pool: Pool, penalty: float) -> Callable[[torch.Tensor], Values]:
    """Fit a ridge regression on the features of all training ratings."""
    gram = pool.x.T @ pool.x + penalty * np.eye(FEATURES)
    slope = np.linalg.solve(gram, pool.x.T @ (pool.y - pool.y.mean()))
    return lambda x: np.asarray(
        (x[..., :FEATURES].double().numpy() - pool.means) @ slope + pool.y.mean()
    )


def shifted(model: Callable[[torch.Tensor], Values], tasks: TaskBatch, penalty: float) -> Values:
    """Shift a model's predictions to the user's support ratings."""
    return _shifted(lambda half: model(half["x"]), tasks, penalty)


def _shifted(model: Callable[[Any], Values], tasks: TaskBatch, penalty: float) -> Values:
    rest = tasks.support_y[..., 0].double().numpy() - model(tasks.support)
    return np.asarray(model(tasks.query) + rest.sum(1, keepdims=True) / (rest.shape[1] + penalty))


def _constant(tasks: TaskBatch, value: Any) -> Values:
    return np.asarray(np.zeros(tuple(tasks.query_y.shape[:2])) + value)


def _chosen(learner: Learner, method: Method, grids: list[list[float]]) -> Scores:
    """Return the test scores with the penalties that are best on validation users."""
    candidates = list(itertools.product(*grids))
    errors = [
        [float(_off(method, tasks, one).mean()) for one in candidates]
        for tasks in _tasks(learner, "validation")
    ]
    best = candidates[int(np.mean(errors, 0).argmin())]
    found = [
        (_off(method, tasks, best).mean(), _gain(method, tasks, best))
        for tasks in _tasks(learner, "test")
    ]
    return dict(zip(("mae", "ndcg_5"), np.array(found).T, strict=True))


def _tasks(learner: Learner, split: Any) -> Iterator[TaskBatch]:
    return (learner.evaluation_tasks(client) for client in learner.family.population.clients(split))


def _off(method: Method, tasks: TaskBatch, penalties: tuple[float, ...]) -> Values:
    return np.asarray(np.abs(method(tasks, penalties) - tasks.query_y[..., 0].double().numpy()))


def _gain(method: Method, tasks: TaskBatch, penalties: tuple[float, ...]) -> float:
    predicted = torch.from_numpy(method(tasks, penalties))
    pairs = zip(predicted, tasks.query_y[..., 0].double() + CENTRE, strict=True)
    return float(np.mean([float(normalised_gain(*pair)) for pair in pairs]))


if __name__ == "__main__":
    main()
