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
"""Returns the state after the server's step along a flat pseudo-gradient ``[D]``."""

PRECISION = 8.0
"""Rounding error of a loss, in units of its dtype's epsilon. Losses of models whose weights differ only
by rounding were up to 1.8 epsilon apart on one task, and less in the mean of several (digits and
sinusoids; 1 and 5 steps)."""

WORST_LOSS = 1e6
"""Replaces any larger or undefined loss, so that a ruined model does not end the run."""


def held_out_tasks(family: TaskFamily, count: int, seed: int, round_: int) -> TaskBatch:
    """Draw a round's tasks evenly from the validation clients, with new tasks in each round.

    New draws make the errors of different rounds independent, so that they average out.

    Args:
        family: The clients' data; the population has validation clients.
        count: Number of tasks.
        seed: The run's seed.
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
    """Minus the mean loss on held-out tasks, after adapting to each, of a coalition's model.

    Gradient-based model reconstruction (Liu et al. 2022, arXiv:2109.02053; Song, Tong, Wei 2019):
    without training again, it takes the server's next step from the existing updates. With weights
    ``w_i = tasks_i / sum of all tasks``, coalition S has the model

    - ``absent = "zero"``: ``step(sum over S of w_i g_i)``, the round with the others' updates set to
      zero. As far as the step is linear, splitting a client's tasks over several identities changes
      nothing.
    - ``absent = "excluded"``: ``step(sum over S of w_i g_i / sum over S of w_i)``, the paper's
      reconstruction: a round of S alone. Here a single client takes a whole round's step along its own
      noisy update, and two identities take two of these.

    A client that sends zeros is never in S (see `Game`): under ``excluded`` its tasks do not dilute the
    mean of a coalition, but they do dilute that of the round.

    The empty coalition is the server's step along zero, not the old state: with momentum or weight decay
    the state moves without any client's contribution.

    Attributes:
        algorithm: How to adapt.
        tasks: Held-out tasks, the same for every coalition, so their difficulty cancels in differences.
        preview: The server's step, which must not change the server.
        players: The admitted updates.
        options: Adaptation steps, and how absent players count.
        device: Device of the computation and of `tasks`.
    """

    algorithm: Algorithm
    tasks: TaskBatch
    preview: Preview
    players: Players
    options: IncentiveOptions
    device: torch.device = CPU

    def __call__(self, coalitions: Sequence[Coalition]) -> list[float]:
        """Return the utility of each coalition, computed in stacks that suit the model."""
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
    """Scores any round of a run; scores depend only on its fields and the arguments.

    Attributes:
        options: The rule and its settings.
        algorithm: How models are adapted to held-out tasks.
        family: Source of these tasks: its validation clients serve as the server's own data.
        dtype: Dtype of states and tasks.
        seed: The run's seed.
        device: Device on which models are adapted.
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
            players: The admitted updates.
            preview: Returns the state after the server's step, without changing the server.
        """
        rng = stream(self.seed, "incentives", "order", round_)
        return score(self.options, self.game(round_, players, preview), rng)

    def game(self, round_: int, players: Players, preview: Preview) -> Game:
        """Set up a round's game, with held-out tasks if the rule needs them."""
        if not self.options.needs_held_out:
            return Game(players)
        drawn = held_out_tasks(self.family, self.options.tasks, self.seed, round_)
        tasks = drawn.to(self.dtype, self.device)
        measured = players.shortened(self.options.longest)
        utility = HeldOutUtility(self.algorithm, tasks, preview, measured, self.options, self.device)
        return Game(players, utility, PRECISION * torch.finfo(self.dtype).eps)
