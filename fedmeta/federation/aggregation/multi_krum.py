"""Multi-Krum: the mean of the updates that lie closest to others."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from typing_extensions import override

from fedmeta.federation.aggregation import (
    AggregationOptions,
    StackingRule,
    Vectors,
    krum_scores,
    squared_distances,
)
from fedmeta.federation.aggregation.mean import Mean


class MultiKrum(StackingRule):
    """The mean over tasks of the ``keep`` updates with the lowest scores.

    Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", section 4 (arXiv:1703.02757). Of equal scores the first client wins.
    """

    keys: ClassVar[tuple[str, ...]] = ("malicious", "keep")

    @override
    @classmethod
    def least(cls, malicious: int) -> int:
        return 2 * malicious + 3

    @override
    @classmethod
    def problem(cls, options: AggregationOptions, cohort: int) -> str | None:
        most = cohort - options.malicious
        if options.keep is None or options.keep <= most:
            return None
        return (
            f"aggregation.keep = {options.keep} is more than a cohort of {cohort} has "
            f"beside aggregation.malicious = {options.malicious}: at most {most}"
        )

    def kept(self, updates: int) -> int:
        """Return how many of so many updates are averaged."""
        most = updates - self.options.malicious
        return min(self.options.keep or most, most)

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        scores = krum_scores(squared_distances(vectors), self.options.malicious)
        best = np.argsort(scores, kind="stable")[: self.kept(len(vectors))]
        mean = Mean(self.options, self.round, self.size)
        for row in sorted(best):
            mean.add_vector(vectors[row], tasks[row])
        return mean.result()
