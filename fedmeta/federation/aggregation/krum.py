"""Krum: selects the update closest to the others."""

from collections.abc import Sequence

from typing_extensions import override

from fedmeta.federation.aggregation import Vectors
from fedmeta.federation.aggregation.multi_krum import KrumRule, mean_of_closest


class Krum(KrumRule):
    """Selects the update with the lowest score: Multi-Krum that keeps one (Blanchard et al. 2017)."""

    of_each = 2

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        return mean_of_closest(vectors, tasks, self.options.malicious, kept=1)
