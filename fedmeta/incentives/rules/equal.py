"""Everybody is paid the same."""

import numpy as np
from typing_extensions import override

from fedmeta.incentives.game import Game
from fedmeta.incentives.rules import IncentiveRule


class Equal(IncentiveRule):
    """Everyone the same: pays names, so whoever takes two of them is paid twice."""

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [1.0] * len(game.players)
