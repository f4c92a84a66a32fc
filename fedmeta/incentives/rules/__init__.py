"""How a round's updates are scored: the interface of incentive rules."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from fedmeta.errors import FedmetaError, RunError
from fedmeta.incentives.game import Game
from fedmeta.incentives.options import NOTHING, IncentiveOptions


class IncentiveRule(ABC):
    """Scores the updates of a round; a user's own is named by its dotted path.

    Args:
        options: ``[incentives]`` of the config.
    """

    needs_vectors: ClassVar[bool] = False
    """Whether the rule reads the updates' values."""
    needs_held_out: ClassVar[bool] = False
    """Whether the rule measures models on held-out tasks, those of the validation clients."""

    def __init__(self, options: IncentiveOptions) -> None:
        self.options = options

    @abstractmethod
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        """Return a score for each player of a round, finite, higher is better.

        Args:
            game: The round; it has players, whose updates do not cancel.
            rng: For rules that sample.
        """


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

    Raises:
        RunError: If a user's own rule fails, or does not return one finite score for each player.
    """
    players = game.players
    if options.rule == NOTHING or players.cancel:
        return [0.0] * len(players)
    scores = _scores(options, game, rng)
    noise = 0.0
    if options.needs_held_out:
        # Scores are means of differences of worths, each of which is as uncertain as the round's own.
        noise = game.precision * abs(game.value(game.everybody))
    return [
        0.0 if player in players.idle or abs(found) <= noise else found
        for player, found in enumerate(scores)
    ]


def _scores(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:
    where = f"incentives.rule '{options.rule}'"
    try:
        scores = [float(one) for one in options.kind(options).scores(game, rng)]
    except FedmetaError:
        raise
    except Exception as error:
        # A user's rule may fail in any way.
        raise RunError(f"{where} failed: {type(error).__name__}: {error}") from error
    if len(scores) != len(game.players):
        raise RunError(f"{where} returned {len(scores)} scores for {len(game.players)} clients")
    if not all(map(math.isfinite, scores)):
        raise RunError(f"{where} returned a score that is not finite: {scores}")
    return scores
