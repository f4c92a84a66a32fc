"""What a round would lose without each player."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from fedmeta.incentives.rules import IncentiveRule

if TYPE_CHECKING:
    import numpy as np

    from fedmeta.incentives.game import Game


class LeaveOneOut(IncentiveRule):
    """Scores what the round would have lost without each player, ``v(N) - v(N without i)``.

    It needs N + 1 models only, but two players that bring the same may both be found dispensable
    (Ghorbani, Zou 2019, "Data Shapley", arXiv:1904.02868, section 2).
    """

    needs_vectors = needs_held_out = True

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        everybody = game.everybody
        without = [[other for other in everybody if other != player] for player in everybody]
        whole, *rest = game.values([everybody, *without])
        return [whole - value for value in rest]
