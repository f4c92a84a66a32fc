"""Contribution scoring and reward allocation."""

from typing import TYPE_CHECKING

from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = lazy_names(__name__)

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
