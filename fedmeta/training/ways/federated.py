"""Federated training: clients keep their data, and a server aggregates their updates."""

from collections.abc import Mapping, Sequence

from typing_extensions import override

from fedmeta.federation import EvaluationSums, MetaStrategy, RoundRecord
from fedmeta.learning import Tensors
from fedmeta.training.ways import TrainingSetup, Way


class Federated(Way):
    """Trains with messages to clients and one strategy, on any engine.

    Args:
        setup: Its parts.

    Raises:
        ConfigError: If the cohort is larger than the population.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        super().__init__(setup)
        self._strategy = MetaStrategy(
            self.learner, self.plan, self.start, setup.rewards, setup.federation.states
        )

    @property
    @override
    def state(self) -> Tensors:
        return self._strategy.state

    @override
    def train(self, round_: int) -> RoundRecord:
        return self._strategy.train(round_, self.federation.grid)

    @override
    def export(self) -> Tensors:
        return self._strategy.export()

    @override
    def evaluate(
        self, state: Tensors, round_: int, clients: Sequence[int]
    ) -> Mapping[int, EvaluationSums]:
        """Evaluate on held-out clients, without those whose reply is missing or invalid."""
        return self.federation.evaluate(state, round_, clients, self.plan.timeout)
