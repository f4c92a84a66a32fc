"""Tries a user's incentive rule on a synthetic round."""

from collections.abc import Sequence

import numpy as np

from fedmeta.errors import ConfigError, RunError
from fedmeta.incentives.game import Coalition, Game, Players
from fedmeta.incentives.rules import IncentiveOptions, score

MOST_CLIENTS = 8


def try_rule(options: IncentiveOptions, cohort: int, size: int) -> None:
    """Check that a rule returns one finite score per client, as a function of only the round.

    Args:
        options: Names the rule.
        cohort: Clients per round.
        size: Values in an update, D.

    Raises:
        ConfigError: If the rule fails or does not.
    """
    count = min(cohort, MOST_CLIENTS)
    updates = np.random.default_rng(0).standard_normal((count, size if options.needs_vectors else 0))
    norms = tuple(map(float, range(1, count + 1)))
    if options.needs_vectors:
        norms = tuple(np.linalg.norm(updates, axis=1).tolist())
    players = Players(tuple(range(count)), tuple(range(1, count + 1)), updates, norms)
    kept, name = updates.copy(), f"incentives.rule '{options.rule}'"
    try:
        once, again = (_trial_scores(options, players) for _ in range(2))
    except RunError as error:
        raise ConfigError(str(error)) from None
    if not np.array_equal(updates, kept):
        raise ConfigError(f"{name} changes the updates in place; work on a copy")
    if once != again:
        raise ConfigError(
            f"{name} returns different scores for the same round: draw random numbers only from rng"
        )


def _trial_scores(options: IncentiveOptions, players: Players) -> list[float]:
    game = Game(players, _worths if options.needs_held_out else None)
    return score(options, game, np.random.default_rng(0))


def _worths(coalitions: Sequence[Coalition]) -> list[float]:
    """Return the number of players as the utility of each coalition."""
    return [float(len(coalition)) for coalition in coalitions]
