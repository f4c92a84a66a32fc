"""Regression: the mean squared error."""

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.objective import Objective, Tensors, mean_of_examples


class Regression(Objective):
    """Predicts ``spec.outputs`` real numbers for each example.

    Targets ``y`` and predictions are ``[T, B, outputs]``; the mean is over all but the task axis.
    """

    numbers = True

    @override
    def loss(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the mean squared error of each task."""
        target = examples["y"]
        if prediction.shape != target.shape:
            # Otherwise they would be broadcast silently.
            raise ValueError(f"predictions are {list(prediction.shape)}, targets {list(target.shape)}")
        return mean_of_examples((prediction - target).square(), examples)

    @override
    def check(self, examples: Examples, half: str) -> Examples:
        """Return the targets as floating-point numbers, ``spec.outputs`` per example."""
        x, y = examples["x"], examples["y"]
        wanted = [*x.shape[:2], self.spec.outputs]
        if list(y.shape) != wanted:
            raise ValueError(f"{half}_y has shape {list(y.shape)}, not {wanted}")
        return examples if y.is_floating_point() else {**examples, "y": y.float()}

    @override
    def made_up_targets(self, x: Tensor, generator: torch.Generator) -> Tensors:
        """Return random numbers."""
        return {"y": torch.randn(*x.shape[:2], self.spec.outputs, generator=generator)}
