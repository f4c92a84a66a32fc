"""Krum: the update that lies closest to others."""

from collections.abc import Sequence

from typing_extensions import override

from fedmeta.federation.aggregation import Vectors
from fedmeta.federation.aggregation.multi_krum import KrumRule, mean_of_closest


class Krum(KrumRule):
    """The update with the lowest score; Multi-Krum that keeps one (Blanchard et al. 2017, section 4)."""

    of_each = 2

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        return mean_of_closest(vectors, tasks, self.options.malicious, kept=1)
