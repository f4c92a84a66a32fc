"""Classification: cross-entropy loss and accuracy."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Objective, Tensors, dtype_name, mean_of_examples, within

IGNORED = -100
"""The label that PyTorch's losses ignore (``ignore_index``)."""


class Classification(Objective):
    """Predicts which of ``spec.outputs`` labels each example, or each position of a text, has.

    Targets are labels ``y [T, B, ...]``, predictions logits ``[T, B, ..., C]``; means are over all but
    the task axis.
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "accuracy": Measure(higher_is_better=True, low=0.0, high=1.0)
    }
    labels = True

    @override
    def loss(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the mean cross-entropy of each task."""
        target = examples["y"]
        losses = F.cross_entropy(prediction.flatten(0, -2), target.flatten(), reduction="none")
        return mean_of_examples(losses.view(target.shape), examples)

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the share of labels that have the largest logit."""
        hits = prediction.detach().argmax(-1) == examples["y"]
        return {"accuracy": mean_of_examples(hits.to(prediction.dtype), examples)}

    @override
    def check(self, examples: Examples, half: str) -> Examples:
        """Return the labels as int64, counted from 0, one per example or position."""
        x, y, name = examples["x"], examples["y"], f"{half}_y"
        if list(y.shape) == [*x.shape[:2], self.spec.outputs] and bool((y.sum(-1) == 1).all()):
            raise ValueError(f"{name} is one-hot: pass the labels' numbers, y.argmax(-1)")
        if y.shape[:2] != x.shape[:2]:
            raise ValueError(f"{name} has shape {list(y.shape)}, but its inputs {list(x.shape)}")
        if y.is_floating_point() or y.is_complex():
            raise ValueError(f"{name} is {dtype_name(y)}, but labels must be integers")
        if bool((y == IGNORED).any()):
            raise ValueError(f"{name} holds {IGNORED}: leave examples to be ignored out of the task")
        return {**examples, "y": within(y.long(), self.spec.outputs, name, "labels")}

    @override
    def made_up_targets(self, x: Tensor, generator: torch.Generator) -> Tensors:
        """Return random tokens for text, otherwise the labels in turn."""
        if self.spec.vocabulary:
            return {"y": torch.randint(self.spec.outputs, x.shape, generator=generator)}
        return {"y": (torch.arange(x.shape[1]) % self.spec.outputs).repeat(len(x), 1)}
