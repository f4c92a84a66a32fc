"""Leave-one-out scores: a round's loss of utility without each player."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from fedmeta.incentives.rules import IncentiveRule

if TYPE_CHECKING:
    import numpy as np

    from fedmeta.incentives.game import Game


class LeaveOneOut(IncentiveRule):
    """Scores each player by what the round would lose without it, ``v(N) - v(N without i)``.

    It needs only N + 1 models, but two players with the same contribution may both appear dispensable
    (Ghorbani, Zou 2019, "Data Shapley", arXiv:1904.02868, section 2).
    """

    needs_vectors = needs_held_out = True

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        everybody = game.everybody
        without = [[other for other in everybody if other != player] for player in everybody]
        whole, *rest = game.values([everybody, *without])
        return [whole - value for value in rest]
