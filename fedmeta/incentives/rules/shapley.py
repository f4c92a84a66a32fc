"""Shapley values: exact for few players, GTG-Shapley for more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from fedmeta.incentives.rules import IncentiveRule
from fedmeta.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedmeta.incentives.game import Game

WINDOW = 10
"""Permutations over which GTG-Shapley checks for convergence, as in the authors' code."""


class ShapleyOptions(Options):
    """GTG-Shapley's settings (Liu et al. 2022, arXiv:2109.02053), with the paper's defaults up to scale.

    The paper's thresholds are in accuracy. Here they are shares of the round's gain,
    ``|v(all) - v(none)|``, because a utility may be a loss of any size.

    Attributes:
        exact: Cohorts of at most this many clients are valued exactly, over all ``2^n`` coalitions.
        permutations: Most permutations per round.
        truncation: The rest of a permutation scores 0 once at most this share of the round's gain
            remains to be explained (within-round truncation); 0: never.
        negligible: All scores of a round are 0 if the loss changed by at most this
            (between-round truncation), in units of the loss; 0: every round counts.
        convergence: Sampling ends once the values of the last ten permutations differ by at most this
            share of their mean size.
    """

    exact: int = Field(default=5, ge=0, le=16)
    permutations: int = Field(default=200, ge=1)
    truncation: float = Field(default=0.001, ge=0, lt=1)
    negligible: float = Field(default=0.0, ge=0)
    convergence: float = Field(default=0.05, gt=0)


class Shapley(IncentiveRule):
    """Scores by Shapley value: exact for small cohorts, GTG-Shapley for larger ones."""

    Options = ShapleyOptions
    own: ShapleyOptions
    needs_vectors = needs_held_out = True

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        if len(game.players) <= self.own.exact:
            return exact_shapley(game)
        return gtg_shapley(game, self.own, rng)


def exact_shapley(game: Game) -> list[float]:
    """Return every player's Shapley value, from all ``2^N`` coalitions.

    Shapley 1953, "A Value for n-Person Games": the mean of ``v(S and i) - v(S)`` over all coalitions S
    without player i, with equal weight for each size.
    """
    count = len(game.players)
    added: list[list[float]] = [[] for _ in range(count)]
    coalitions = [c for size in range(count + 1) for c in combinations(range(count), size)]
    worth = dict(zip(coalitions, game.values(coalitions), strict=True))
    for coalition in coalitions:
        weight = 1.0 / (count * math.comb(count - 1, len(coalition))) if len(coalition) < count else 0.0
        for player in range(count):
            if player not in coalition:
                joined = tuple(sorted((*coalition, player)))
                added[player].append(weight * (worth[joined] - worth[coalition]))
    # Exact sums do not depend on the order of players, so equal players stay equal.
    return [math.fsum(terms) for terms in added]


def gtg_shapley(game: Game, options: ShapleyOptions, rng: np.random.Generator) -> list[float]:
    """Estimate every player's Shapley value with Guided Truncation Gradient Shapley.

    Liu, Chen, Yu, Liu, Cui 2022, "GTG-Shapley: Efficient and Accurate Participant Contribution
    Evaluation in Federated Learning", ACM TIST 13(4), arXiv:2109.02053. Models are reconstructed from
    updates (see `HeldOutUtility`), a round that changed nothing is skipped (between-round truncation),
    each player comes first in turn (guided sampling), a permutation ends where little is left to
    explain (within-round truncation), and sampling ends when the values have converged.

    There are two differences. Every other turn reverses the permutations of the turn before: such
    antithetic pairs are exact if players interact only in pairs (Mitchell, Cooper, Frank, Holmes 2022,
    "Sampling Permutations for Shapley Value Estimation", JMLR 23(43)). And convergence is relative to
    the mean size of values, not to each value, as a free-rider's is about 0.
    """
    import numpy as np

    count = len(game.players)
    nobody, everybody = game.values([(), game.everybody])
    if abs(everybody - nobody) <= options.negligible:
        return [0.0] * count
    records: list[NDArray[np.float64]] = []
    for turn in guided_turns(count, options.permutations, rng):
        left = options.permutations - len(records)
        records.extend(marginals(game, turn[:left], options.truncation))
        if len(records) >= options.permutations or _settled(records, options.convergence):
            break
    values: list[float] = np.mean(records, axis=0).tolist()
    return values


def guided_turns(count: int, limit: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield turns of permutations ``[n, N]``, without end; in odd turns each player comes first once.

    If there are more players than the `limit` of permutations, only that many come first.
    """
    import numpy as np

    while True:
        firsts = rng.permutation(count)[:limit]
        turn = np.empty((len(firsts), count), dtype=np.int64)
        for row, first in zip(turn, firsts, strict=True):
            row[0] = first
            row[1:] = rng.permutation(np.delete(np.arange(count), first))
        yield turn
        yield turn[:, ::-1]


def marginals(game: Game, turn: NDArray[np.int64], truncation: float) -> NDArray[np.float64]:
    """Return each player's marginal contribution ``[n, N]`` in each of n permutations.

    All permutations advance together, so that their coalitions are measured in one stack.
    """
    import numpy as np

    nobody, everybody = game.values([(), game.everybody])
    small = truncation * abs(everybody - nobody)
    before = np.full(len(turn), nobody)
    added = np.zeros(turn.shape)
    for place in range(turn.shape[1]):
        rows = np.flatnonzero(np.abs(everybody - before) >= small) if small else np.arange(len(turn))
        if not len(rows):
            break
        worth = np.array(game.values(turn[row, : place + 1].tolist() for row in rows))
        added[rows, turn[rows, place]] = worth - before[rows]
        before[rows] = worth
    return added


def _settled(records: list[NDArray[np.float64]], convergence: float) -> bool:
    """Return whether the last `WINDOW` running means are within `convergence` of the latest."""
    import numpy as np

    if len(records) <= WINDOW:
        return False
    sums = np.cumsum(records, axis=0)
    means = sums[-WINDOW:] / np.arange(len(records) - WINDOW + 1, len(records) + 1)[:, None]
    size = np.abs(means[-1]).mean()
    return bool(np.abs(means - means[-1]).mean(axis=1).max() <= convergence * size)
