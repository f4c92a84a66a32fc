"""`RunScorer`: scores and pays a run's clients round by round, by the incentive rule."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from fedmeta.config import Config
from fedmeta.experiment.client_totals import UNITS
from fedmeta.federation import Award, Learner, Preview, Update
from fedmeta.incentives import ContributionScorer, Players, RewardAccumulator


class RunScorer:
    """Scores each round by the config's rule and pays its pot; see `fedmeta.federation.Scorer`.

    Args:
        config: The run's config, whose rule is not ``none``.
        learner: Gives the algorithm and the validation clients' tasks.
    """

    def __init__(self, config: Config, learner: Learner) -> None:
        options = config.incentives
        self.wants_vectors = options.needs_vectors
        self.contributions = ContributionScorer(
            options, learner.algorithm, learner.family, learner.dtype, config.seed, learner.device
        )
        self.rewards = RewardAccumulator(options, config.chain.pot * UNITS)

    def award(self, round_: int, admitted: Sequence[Update], preview: Preview) -> Mapping[int, Award]:
        """Return the score and pay of each admitted client of a round, by partition id."""
        players = Players(
            tuple(update.client for update in admitted),
            tuple(update.tasks for update in admitted),
            np.stack([update.vector for update in admitted]),
            tuple(update.norm for update in admitted),
        )
        scores = dict(
            zip(players.clients, self.contributions.scores(round_, players, preview), strict=True)
        )
        rewards = self.rewards.reward(scores)
        return {client: Award(scores[client], rewards[client]) for client in players.clients}

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Restore the state after finished rounds, given as rows of ``clients.jsonl``."""
        for _, clients in groupby(rows, key=lambda row: row["round"]):
            scored = [row for row in clients if row["score"] is not None]
            self.rewards.replay(
                {row["client"]: row["score"] for row in scored},
                {row["client"]: row["reward"] for row in scored},
            )
