"""The rules by which a round's updates are scored."""

from collections.abc import Callable

import numpy as np
import torch
from torch.linalg import vector_norm

from fedmeta.incentives.game import Game
from fedmeta.incentives.options import IncentiveOptions
from fedmeta.incentives.shapley import exact_shapley, gtg_shapley


def score(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:
    """Score every player of a round by the rule of `options`; higher is better.

    A contribution of nothing scores 0 under every rule: an update of zeros, any update of a round whose
    updates cancel, and a score that the arithmetic cannot tell from 0.

    Args:
        options: The rule and its settings.
        game: The round; a game of nobody has no scores.
        rng: For the rules that sample.

    Returns:
        Scores, finite, in the order of the players.
    """
    players = game.players
    if players.cancel:
        return [0.0] * len(players)
    scores = _RULES[options.rule](options, game, rng)
    noise = 0.0
    if options.needs_held_out:
        # Scores are means of differences of worths, each of which is as uncertain as the round's own.
        noise = game.precision * abs(game.value(game.everybody))
    return [
        0.0 if player in players.idle or abs(found) <= noise else found
        for player, found in enumerate(scores)
    ]


def _none(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:  # noqa: ARG001
    return [0.0] * len(game.players)


def _equal(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:  # noqa: ARG001
    """Everyone the same: pays names, so whoever takes two of them is paid twice."""
    return [1.0] * len(game.players)


def _tasks(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:  # noqa: ARG001
    """By the number of tasks: pays for work as claimed, whether or not anything was learned from it."""
    return [float(tasks) for tasks in game.players.tasks]


def leave_one_out(
    options: IncentiveOptions,  # noqa: ARG001
    game: Game,
    rng: np.random.Generator,  # noqa: ARG001
) -> list[float]:
    """Score what the round would have lost without each player, ``v(N) - v(N without i)``.

    It needs N + 1 models only, but two players that bring the same may both be found dispensable
    (Ghorbani, Zou 2019, "Data Shapley", arXiv:1904.02868, section 2).
    """
    everybody = game.everybody
    without = [[other for other in everybody if other != player] for player in everybody]
    whole, *rest = game.values([everybody, *without])
    return [whole - value for value in rest]


def shapley(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:
    """Score by Shapley value: exact for small cohorts, by GTG-Shapley for others."""
    if len(game.players) <= options.shapley.exact:
        return exact_shapley(game)
    return gtg_shapley(game, options.shapley, rng)


def cosine(
    options: IncentiveOptions,  # noqa: ARG001
    game: Game,
    rng: np.random.Generator,  # noqa: ARG001
) -> list[float]:
    """Score how well each update agrees with the task-weighted sum of all others', by their cosine.

    After the cosine gradient Shapley value of Xu, Lyu, Ma, Miao, Foo, Low 2021, "Gradient Driven Rewards
    to Guarantee Fairness in Collaborative Machine Learning" (NeurIPS); they compare with the aggregate,
    of which the update is a part. It needs no held-out tasks and is cheap, and it is wrong in ways that
    matter: it pays agreement, not usefulness, so a majority of poisoners is paid and the honest are
    not; a copy, however scaled, is paid like its victim; rare but valuable data looks like
    disagreement; and an update's size counts for nothing. An update of zeros agrees with nobody.
    """
    vectors = torch.from_numpy(game.players.updates)
    weighted = vectors * torch.tensor(game.players.tasks, dtype=torch.float64)[:, None]
    others = weighted.sum(0) - weighted
    scores = torch.cosine_similarity(vectors, others, dim=1, eps=1e-30)
    # What rounding leaves of two orthogonal updates, or of others that cancel, is no agreement.
    cancelled = len(vectors) * vector_norm(weighted, dim=1).sum() / vector_norm(others, dim=1)
    noise = torch.finfo(torch.float64).eps * (vectors.shape[1] + cancelled)
    kept: list[float] = torch.where(scores.abs() > noise, scores, 0.0).tolist()
    return kept


Rule = Callable[[IncentiveOptions, Game, np.random.Generator], list[float]]

_RULES: dict[str, Rule] = {
    "none": _none,
    "equal": _equal,
    "tasks": _tasks,
    "leave-one-out": leave_one_out,
    "shapley": shapley,
    "cosine": cosine,
}
