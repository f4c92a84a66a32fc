"""Screening: finds active examples among many, measured by the area under the ROC curve."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import MASK, Examples
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Tensors
from fedmeta.tasks.objectives.classification import Classification

UNDEFINED = 0.5
"""The area of a task whose examples are all of one class: that of a guess."""


class Screening(Classification):
    """Predicts which examples are active (label 1), with the cross-entropy as loss.

    ``auc`` is the probability that an active example has a higher score than an inactive one, ties
    counted half (Hanley and McNeil 1982, "The Meaning and Use of the Area under a ROC Curve"); the score
    is the difference of the two logits. It does not depend on how many examples are active.
    """

    class_names = ("inactive", "active")
    measures: ClassVar[Mapping[str, Measure]] = {
        "auc": Measure(higher_is_better=True, low=0.0, high=1.0)
    }

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the area under each task's ROC curve."""
        scores = prediction.detach()[..., 1] - prediction.detach()[..., 0]
        valid = examples.get(MASK, torch.ones_like(scores, dtype=torch.bool))
        tasks = zip(scores, examples["y"], valid, strict=True)
        return {"auc": torch.stack([area_under_curve(score[v], y[v] == 1) for score, y, v in tasks])}


def area_under_curve(scores: Tensor, active: Tensor) -> Tensor:
    """Return the area under the ROC curve of ``scores [B]``, in their dtype.

    It is the Mann-Whitney statistic, from the mean ranks of equal scores.
    """
    positives = int(active.sum())
    pairs = positives * (len(active) - positives)
    if not pairs:
        return scores.new_tensor(UNDEFINED)
    ordered = scores.sort().values
    # Half-integers far below 2^53: exact in float64.
    below = torch.searchsorted(ordered, scores[active], right=False).double()
    not_above = torch.searchsorted(ordered, scores[active], right=True).double()
    ranks = (below + not_above + 1) / 2
    return ((ranks.sum() - positives * (positives + 1) / 2) / pairs).to(scores.dtype)
