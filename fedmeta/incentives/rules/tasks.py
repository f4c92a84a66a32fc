"""Payment by the number of tasks."""

import numpy as np
from typing_extensions import override

from fedmeta.incentives.game import Game
from fedmeta.incentives.rules import IncentiveRule


class Tasks(IncentiveRule):
    """By the number of tasks: pays for work as claimed, whether or not anything was learned from it."""

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [float(tasks) for tasks in game.players.tasks]
