"""What the server needs to score rounds: the rule, and its own held-out tasks."""

from dataclasses import dataclass

import torch

from fedmeta.incentives.game import Game, Players
from fedmeta.incentives.held_out import PRECISION, HeldOutUtility, Preview, held_out_tasks
from fedmeta.incentives.options import IncentiveOptions
from fedmeta.incentives.rules import score
from fedmeta.learning import Algorithm
from fedmeta.tasks import TaskFamily, stream


@dataclass(frozen=True)
class Appraiser:
    """Scores any round of a run; the scores are a function of its fields and the arguments alone.

    Attributes:
        options: The rule.
        algorithm: How models are adapted to held-out tasks.
        family: Where these come from: its validation clients stand for the server's own data.
        dtype: Of states and tasks.
        seed: The run's.
    """

    options: IncentiveOptions
    algorithm: Algorithm
    family: TaskFamily
    dtype: torch.dtype
    seed: int

    def scores(self, round_: int, players: Players, preview: Preview) -> list[float]:
        """Score the admitted updates of a round, in the order of `players`.

        Args:
            round_: The round, counted from 1.
            players: Whose updates were admitted.
            preview: What the server's step would make of a pseudo-gradient; the server must not change.
        """
        rng = stream(self.seed, "incentives", "order", round_)
        return score(self.options, self.game(round_, players, preview), rng)

    def game(self, round_: int, players: Players, preview: Preview) -> Game:
        """Set up a round's game; held-out tasks are drawn for rules that need them only."""
        if not self.options.needs_held_out:
            return Game(players)
        tasks = held_out_tasks(self.family, self.options.tasks, self.seed, round_).to(self.dtype)
        measured = players.shortened(self.options.longest)
        utility = HeldOutUtility(self.algorithm, tasks, preview, measured, self.options)
        return Game(players, utility, PRECISION * torch.finfo(self.dtype).eps)
