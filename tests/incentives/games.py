"""Games whose Shapley values are known, and a count of what a rule asks for."""

from collections.abc import Callable, Sequence

import numpy as np

from fedmeta.incentives import Coalition, Game, Players

Worth = Callable[[Coalition], float]


def players(count: int) -> Players:
    return Players(tuple(range(count)), (1,) * count, np.zeros((count, 0)))


def game(count: int, worth: Worth) -> Game:
    def utility(coalitions: Sequence[Coalition]) -> list[float]:
        return [worth(coalition) for coalition in coalitions]

    return Game(players(count), utility)


def additive(weights: Sequence[float], start: float = 0.0) -> Game:
    """Additive game: each player's value is its weight."""
    return game(len(weights), lambda coalition: start + sum(weights[i] for i in coalition))


def pairwise(count: int, seed: int) -> tuple[Game, list[float]]:
    """Players bring their own and share what each pair brings: its two halves are the values' parts."""
    rng = np.random.default_rng(seed)
    own, both = rng.normal(size=count), np.triu(rng.normal(size=(count, count)), 1)

    def worth(coalition: Coalition) -> float:
        member = np.zeros(count)
        member[list(coalition)] = 1.0
        return float(own @ member + member @ both @ member)

    return game(count, worth), (own + (both.sum(0) + both.sum(1)) / 2).tolist()


def arbitrary(count: int, seed: int) -> Game:
    """A random game."""
    worths: dict[Coalition, float] = {}
    rng = np.random.default_rng(seed)

    def worth(coalition: Coalition) -> float:
        return worths.setdefault(coalition, float(rng.normal()))

    return game(count, worth)
