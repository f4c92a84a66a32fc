"""Regression of clinical scores: the mean squared error, and the mean absolute error in points."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from fedmeta.tasks.batch import Examples
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import Tensors, mean_of_examples
from fedmeta.tasks.objectives.regression import Regression

POINTS = 10.0
"""Points of a clinical score in a unit of the targets."""


class ClinicalScore(Regression):
    """Predicts clinical scores in units of ten points, for which networks start about right.

    `loss` is in these units; the measure ``mae`` is the mean absolute error in points.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"mae": Measure(low=0.0)}

    @override
    def measure(self, prediction: Tensor, examples: Examples) -> Tensors:
        """Return the mean absolute error of each task in points."""
        off = (prediction.detach() - examples["y"]).abs()
        return {"mae": POINTS * mean_of_examples(off, examples)}
