"""Ranking of items that a user rated: a pairwise loss, measured by nDCG@5."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from fedmeta.learning import Tensors
from fedmeta.tasks import MASK, Examples, Measure, Objective

CUT = 5


class Ranking(Objective):
    """Score items so that those which a user rates higher come first.

    Examples are items ``item [T, B, *input_shape]`` with ratings ``rating [T, B]``, at least one item of
    each task above 0; predictions are scores ``[T, B, 1]``. The loss is RankNet's (Burges et al. 2005,
    "Learning to Rank using Gradient Descent", equation 3): the mean of ``ln(1 + exp(s_j - s_i))`` over
    all pairs with ``r_i > r_j``.
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "ndcg@5": Measure(higher_is_better=True, low=0.0, high=1.0),
        "misordered": Measure(low=0.0, high=1.0),
    }

    @override
    def inputs(self, examples: Examples) -> Tensor:
        """Return the items, which the model reads."""
        return examples["item"]

    @override
    def loss(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the mean loss over each task's pairs with different ratings."""
        return _mean_of_pairs(F.softplus(-_gaps(prediction)), examples)

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return nDCG@5 and the share of pairs in the wrong order."""
        wrong = (_gaps(prediction) <= 0).to(prediction.dtype)
        scores, gains = prediction.squeeze(-1), 2.0 ** examples["rating"] - 1
        if MASK in examples:
            scores = scores.masked_fill(~examples[MASK], -torch.inf)
            gains = gains.masked_fill(~examples[MASK], 0.0)
        found = _discounted(gains.gather(1, scores.argsort(dim=1, descending=True, stable=True)))
        ideal = _discounted(gains.sort(dim=1, descending=True).values)
        return {"ndcg@5": found / ideal, "misordered": _mean_of_pairs(wrong, examples)}

    @override
    def check(self, examples: Examples, half: str) -> Examples:
        """Require a rating for each item."""
        items, ratings = examples["item"], examples["rating"]
        if ratings.shape != items.shape[:2]:
            raise ValueError(f"{half}_rating has shape {list(ratings.shape)}: one number per item")
        return {**examples, "rating": ratings if ratings.is_floating_point() else ratings.float()}


def _gaps(prediction: Tensor) -> Tensor:
    """Return the score of item i minus that of item j, ``[T, B, B]``."""
    scores = prediction.squeeze(-1)
    return scores.unsqueeze(2) - scores.unsqueeze(1)


def _mean_of_pairs(values: Tensor, examples: Examples) -> Tensor:
    """Average ``[T, B, B]`` over pairs whose first item is rated higher; 0 if there are none."""
    ratings = examples["rating"]
    pairs = ratings.unsqueeze(2) > ratings.unsqueeze(1)
    if MASK in examples:
        mask = examples[MASK]
        pairs = pairs & mask.unsqueeze(2) & mask.unsqueeze(1)
    total = values.where(pairs, 0.0).flatten(1).sum(1)
    return total / pairs.flatten(1).sum(1).clamp(min=1)


def _discounted(gains: Tensor) -> Tensor:
    """Return ``sum_k gain_k / log2(k + 1)`` of the first five of the ordered gains."""
    count = min(CUT, gains.shape[1])
    places = torch.arange(2, 2 + count, dtype=gains.dtype, device=gains.device)
    return (gains[:, :CUT] / places.log2()).sum(1)
