"""Real rounds of small federations: real updates, the real server's step, real held-out tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmeta.federation import Learner, ServerOptimizer, ServerOptions, Workload
from fedmeta.federation.codec import Codec
from fedmeta.incentives import ContributionScorer, Game, IncentiveOptions, Players
from fedmeta.learning import AlgorithmSetup, Tensors
from fedmeta.tasks import Population

Vectors = NDArray[np.float64]

DIGITS = Workload(
    task="digits",
    data={"ways": 5, "shots": 1, "queries": 4},
    population=Population(8, 4, 1),
    setup=AlgorithmSetup("maml", {"inner_lr": 0.1, "inner_steps": 3}, "mlp", {"hidden": [32]}),
    seed=11,
    tasks_per_client=3,
)
SGD = ServerOptions(optimizer="SGD", lr=0.5)


@dataclass
class Federation:
    """A server and its learner, without any messages between them."""

    learner: Learner
    server: ServerOptimizer

    @staticmethod
    def start(workload: Workload = DIGITS, options: ServerOptions = SGD, **changes: Any) -> "Federation":
        learner = Learner.build(replace(workload, **changes))
        return Federation(learner, ServerOptimizer(options, learner.init_state(), 100))

    @property
    def codec(self) -> Codec:
        return Codec(self.learner.template)

    def train(self, round_: int, clients: Sequence[int]) -> Vectors:
        """What clients send, ``[N, D]``."""
        sent = self.learner.train(self.server.state, round_, clients).updates
        stacks = [value.flatten(1).double().numpy() for value in sent.values()]
        return np.concatenate(stacks, axis=1)

    def preview(self, round_: int) -> Callable[[Vectors], Tensors]:
        return lambda vector: self.server.preview(round_, self.codec.split(vector))

    def step(self, round_: int, players: Players) -> None:
        mean = np.average(players.updates, axis=0, weights=players.tasks)
        self.server.step(round_, self.codec.split(mean))

    def game(self, round_: int, players: Players, options: IncentiveOptions) -> Game:
        learner = self.learner
        judge = ContributionScorer(
            options, learner.algorithm, learner.family, learner.dtype, learner.workload.seed
        )
        return judge.game(round_, players, self.preview(round_))


def players_of(updates: Vectors, tasks: Sequence[int] | None = None) -> Players:
    count = len(updates)
    return Players(tuple(range(count)), tuple(tasks or [DIGITS.tasks_per_client] * count), updates)
