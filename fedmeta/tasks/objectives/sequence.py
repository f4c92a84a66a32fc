"""Classification of the examples of a sequence, with the accuracy at each instance of a class."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Tensors
from fedmeta.tasks.objectives.classification import Classification

MOST = 10
"""Instances whose accuracy is measured."""
SHARE = Measure(higher_is_better=True, low=0.0, high=1.0)


class Sequence(Classification):
    """Predicts the label of each example of a sequence, from those before it and their labels.

    Santoro et al. 2016, "Meta-Learning with Memory-Augmented Neural Networks", section 4: besides the
    accuracy over the whole sequence, ``accuracy_at_k`` is that over the k-th example of each class. The
    label of the first can only be guessed. There is no support set; the examples to predict are
    ``x [T, L, ...]``, ``y [T, L]`` and ``shown [T, L]``, see `fedmeta.tasks.sequences`.
    """

    has_support: ClassVar[bool] = False

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self._most = min(spec.instances, MOST)

    @property
    @override
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        """Accuracy over all examples, and at each instance."""
        return {"accuracy": SHARE, **{f"accuracy_at_{k + 1}": SHARE for k in range(self._most)}}

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the share of labels that have the largest logit, of all examples and by instance."""
        found = super().measure(prediction, examples)
        hits = prediction.detach().argmax(-1) == examples["y"]
        instance = instances(examples["y"])
        for k in range(1, self._most + 1):
            own = instance == k
            share = (hits & own).sum(1) / own.sum(1).clamp(min=1)
            found[f"accuracy_at_{k}"] = share.to(prediction.dtype)
        return found


def instances(labels: Tensor) -> Tensor:
    """Return how many examples of its class each of ``labels [T, L]`` is, counted from 1."""
    same = labels.unsqueeze(2) == labels.unsqueeze(1)
    return torch.tril(same).sum(2)
