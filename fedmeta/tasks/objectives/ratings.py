"""Ratings of 1 to 5 stars: the mean squared error, measured in stars and by the order of the best."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import MASK, Examples
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Tensors, mean_of_examples
from fedmeta.tasks.objectives.regression import Regression

CENTRE = 3.5
"""Stars that a target of 0 stands for."""
STARS = 5
"""The best rating; the worst is 1."""
PLACES = 5
"""Places of a ranking that its gain covers."""


class Ratings(Regression):
    """Predicts ratings; targets ``y [T, B, 1]`` are stars less 3.5.

    ``mae`` is the mean absolute error in stars; predictions are not clipped. ``ndcg_5`` is the
    normalised discounted cumulative gain of the five examples predicted best, with gains
    ``2^stars - 1`` (Burges et al. 2005, "Learning to Rank using Gradient Descent"). Examples with equal
    predictions share their gains (McSherry and Najork 2008, "Computing Information Retrieval
    Performance Measures Efficiently in the Presence of Tied Scores").
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "mae": Measure(low=0.0),
        "ndcg_5": Measure(higher_is_better=True, low=0.0, high=1.0),
    }

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the absolute error and the gain of each task."""
        prediction, target = prediction.detach(), examples["y"]
        valid = examples.get(MASK, torch.ones_like(target[..., 0], dtype=torch.bool))
        tasks = zip(prediction[..., 0], target[..., 0] + CENTRE, valid, strict=True)
        return {
            "mae": mean_of_examples((prediction - target).abs(), examples),
            "ndcg_5": torch.stack([normalised_gain(score[v], stars[v]) for score, stars, v in tasks]),
        }

    @override
    def check(self, examples: Examples, half: str) -> Examples:
        """Return the targets as `Regression.check` does, if they are ratings of 1 to 5 stars."""
        examples = super().check(examples, half)
        stars = examples["y"] + CENTRE
        low, high = float(stars.min()), float(stars.max())
        if low < 1 or high > STARS:
            odd = low if low < 1 else high
            raise ValueError(
                f"{half}_y holds {odd - CENTRE:g}, but ratings are 1 to {STARS} stars, less {CENTRE}"
            )
        return examples

    @override
    def made_up_targets(self, x: Tensor, generator: torch.Generator) -> Tensors:
        """Return random ratings."""
        shape = (*x.shape[:2], self.spec.outputs)
        return {"y": torch.randint(1, STARS + 1, shape, generator=generator) - CENTRE}


def normalised_gain(scores: Tensor, stars: Tensor, places: int = PLACES) -> Tensor:
    """Return the discounted gain of the ranking by ``scores [B]`` over that by ``stars [B]``."""
    gains = stars.exp2() - 1
    places = min(places, len(scores))
    discounts = 1 / torch.arange(2, places + 2, device=scores.device, dtype=gains.dtype).log2()
    # Rows of equal scores each get the mean gain of the row's group, which is its expected gain.
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    shared = (torch.zeros_like(sizes, dtype=gains.dtype).index_add(0, group, gains) / sizes)[group]
    ranked = shared[scores.argsort(descending=True)][:places]
    best = gains.sort(descending=True).values[:places]
    gain: Tensor = ranked.dot(discounts) / best.dot(discounts)
    return gain
