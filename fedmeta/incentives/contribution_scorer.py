"""Scores contributions on the server's held-out tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.incentives.game import Coalition, Game, Players
from fedmeta.incentives.rules import IncentiveOptions, score
from fedmeta.learning import CPU, Algorithm, Tensors, chunk_tasks, place
from fedmeta.tasks import TaskBatch, TaskFamily, stream

Preview = Callable[[NDArray[np.float64]], Tensors]
"""The state that the server's step would lead to from a flat pseudo-gradient ``[D]``."""

PRECISION = 8.0
"""Of a loss, in units of its arithmetic's epsilon. Models whose weights differ by rounding had losses up
to 1.8 epsilon apart on one task, and closer in the mean of several (digits, sinusoids; 1, 5 steps)."""

WORST_LOSS = 1e6
"""Stands for any larger or undefined loss: a ruined model is no reason to fail."""


def held_out_tasks(family: TaskFamily, count: int, seed: int, round_: int) -> TaskBatch:
    """Draw a round's tasks from the validation clients, evenly, and other ones in each round.

    A new draw each round makes the errors of different rounds independent, so that they cancel.

    Args:
        family: The clients' data; the population has validation clients.
        count: How many tasks.
        seed: The run's.
        round_: The round.
    """
    clients = family.population.clients("validation")
    shares = [len(range(place, count, len(clients))) for place in range(len(clients))]
    return TaskBatch.concat(
        [
            family.sample(client, share, stream(seed, "incentives", round_, client))
            for client, share in zip(clients, shares, strict=True)
            if share
        ]
    )


@dataclass(frozen=True)
class HeldOutUtility:
    """Minus the mean loss on held-out tasks, after adapting to each, of the model a coalition makes.

    Gradient-based model reconstruction (Liu et al. 2022, arXiv:2109.02053; Song, Tong, Wei 2019): nobody
    trains again, the server's own next step is taken from the updates at hand. With weights
    ``w_i = tasks_i / sum of all tasks``, coalition S makes

    - ``absent = "zero"``: ``step(sum over S of w_i g_i)``. This is the round as it was but for the
      others' updates, which are zero. As far as the step is linear, splitting a client's tasks over
      several names changes nothing.
    - ``absent = "excluded"``: ``step(sum over S of w_i g_i / sum over S of w_i)``, the paper's
      reconstruction: the round that S alone would have had. Here one client alone takes a whole round's
      step along its own noisy update, and two names have two of these.

    A client that sends zeros is never in S (see `Game`): under ``excluded`` its tasks dilute nobody's
    mean, though they dilute the round's own.

    Nobody (S empty) is the server's step along zero, not the old state: with momentum or weight decay
    the state moves without anybody's help, which nobody brought about.

    Attributes:
        algorithm: How to adapt.
        tasks: Held-out tasks, the same for every coalition: their difficulty cancels in differences.
        preview: The server's step, which must not change the server.
        players: Whose updates there are.
        options: Steps of adaptation, and how the absent count.
        device: Where models are adapted; `tasks` are there.
    """

    algorithm: Algorithm
    tasks: TaskBatch
    preview: Preview
    players: Players
    options: IncentiveOptions
    device: torch.device = CPU

    def __call__(self, coalitions: Sequence[Coalition]) -> list[float]:
        """Measure coalitions, as many in one stack as suit the model."""
        size = max(1, chunk_tasks(self.algorithm.model, self.device) // len(self.tasks))
        losses: list[float] = []
        for first in range(0, len(coalitions), size):
            losses += self._losses(coalitions[first : first + size])
        return [-loss for loss in losses]

    def _losses(self, coalitions: Sequence[Coalition]) -> list[float]:
        states = [self.preview(vector.numpy()) for vector in self._aggregates(coalitions)]
        each = len(self.tasks)
        rows = {
            key: torch.stack([state[key] for state in states]).repeat_interleave(each, 0)
            for key in states[0]
        }
        rows = place(rows, self.device)
        tasks = self.tasks if len(states) == 1 else TaskBatch.concat([self.tasks] * len(states))
        adapted = self.algorithm.adapt(rows, tasks.support, self.options.steps)
        with torch.no_grad():
            prediction = self.algorithm.predict(rows, adapted, tasks.query)
            losses = self.algorithm.objective.loss(prediction, tasks.query).double()
        finite = losses.cpu().nan_to_num(nan=WORST_LOSS, posinf=WORST_LOSS).clamp(max=WORST_LOSS)
        means: list[float] = finite.view(len(states), each).mean(1).tolist()
        return means

    def _aggregates(self, coalitions: Sequence[Coalition]) -> Tensor:
        """Return each coalition's pseudo-gradient, ``[len(coalitions), D]``."""
        weights = torch.zeros(len(coalitions), len(self.players), dtype=torch.float64)
        for row, coalition in zip(weights, coalitions, strict=True):
            for player in coalition:
                row[player] = self.players.tasks[player]
        if self.options.absent == "excluded":
            weights /= weights.sum(1, keepdim=True).clamp(min=1.0)
        else:
            weights /= sum(self.players.tasks)
        return weights @ torch.from_numpy(self.players.updates)


@dataclass(frozen=True)
class ContributionScorer:
    """Scores any round of a run; the scores are a function of its fields and the arguments alone.

    Attributes:
        options: The rule.
        algorithm: How models are adapted to held-out tasks.
        family: Where these come from: its validation clients stand for the server's own data.
        dtype: Of states and tasks.
        seed: The run's.
        device: Where models are adapted.
    """

    options: IncentiveOptions
    algorithm: Algorithm
    family: TaskFamily
    dtype: torch.dtype
    seed: int
    device: torch.device = CPU

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
        drawn = held_out_tasks(self.family, self.options.tasks, self.seed, round_)
        tasks = drawn.to(self.dtype, self.device)
        measured = players.shortened(self.options.longest)
        utility = HeldOutUtility(self.algorithm, tasks, preview, measured, self.options, self.device)
        return Game(players, utility, PRECISION * torch.finfo(self.dtype).eps)
