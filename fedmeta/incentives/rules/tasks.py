"""Pay by the number of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from fedmeta.incentives.rules import IncentiveRule

if TYPE_CHECKING:
    import numpy as np

    from fedmeta.incentives.game import Game


class Tasks(IncentiveRule):
    """Pays for the claimed number of tasks, whether or not anything was learned from them."""

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [float(tasks) for tasks in game.players.tasks]
