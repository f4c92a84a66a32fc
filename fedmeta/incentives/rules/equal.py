"""Equal pay for all clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from fedmeta.incentives.rules import IncentiveRule

if TYPE_CHECKING:
    import numpy as np

    from fedmeta.incentives.game import Game


class Equal(IncentiveRule):
    """Pays all clients the same, so a client with two identities is paid twice."""

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [1.0] * len(game.players)
