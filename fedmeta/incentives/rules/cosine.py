"""Scores by cosine similarity with the others' updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from fedmeta.incentives.rules import IncentiveRule

if TYPE_CHECKING:
    import numpy as np

    from fedmeta.incentives.game import Game


class Cosine(IncentiveRule):
    """Scores each update by its cosine with the task-weighted sum of all others.

    After the cosine gradient Shapley value of Xu, Lyu, Ma, Miao, Foo, Low 2021, "Gradient Driven Rewards
    to Guarantee Fairness in Collaborative Machine Learning" (NeurIPS); they compare with the aggregate,
    which includes the update. It needs no held-out tasks and is cheap, but flawed: it pays agreement,
    not usefulness, so a majority of poisoners is paid and honest clients are not; a copy, however
    scaled, is
    paid like its victim; rare but valuable data look like disagreement; and an update's size does not
    count. A zero update scores 0.
    """

    needs_vectors = True

    @override
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        import torch
        from torch.linalg import vector_norm

        vectors = torch.from_numpy(game.players.updates)
        weighted = vectors * torch.tensor(game.players.tasks, dtype=torch.float64)[:, None]
        others = weighted.sum(0) - weighted
        scores = torch.cosine_similarity(vectors, others, dim=1, eps=1e-30)
        # Rounding errors of orthogonal updates, or of others that cancel, do not count as agreement.
        cancelled = len(vectors) * vector_norm(weighted, dim=1).sum() / vector_norm(others, dim=1)
        noise = torch.finfo(torch.float64).eps * (vectors.shape[1] + cancelled)
        kept: list[float] = torch.where(scores.abs() > noise, scores, 0.0).tolist()
        return kept
