"""What an update was worth, and what it is paid: contribution scoring and reward allocation."""

from fedmeta.incentives.contribution_scorer import (
    ContributionScorer,
    HeldOutUtility,
    Preview,
    held_out_tasks,
)
from fedmeta.incentives.game import Coalition, Game, Players, Utility
from fedmeta.incentives.rewards import RewardAccumulator, allocate
from fedmeta.incentives.rules import IncentiveOptions, IncentiveRule, score
from fedmeta.incentives.rules.shapley import ShapleyOptions, exact_shapley, gtg_shapley

__all__ = [
    "Coalition",
    "ContributionScorer",
    "Game",
    "HeldOutUtility",
    "IncentiveOptions",
    "IncentiveRule",
    "Players",
    "Preview",
    "RewardAccumulator",
    "ShapleyOptions",
    "Utility",
    "allocate",
    "exact_shapley",
    "gtg_shapley",
    "held_out_tasks",
    "score",
]
