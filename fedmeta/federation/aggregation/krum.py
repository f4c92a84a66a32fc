"""Krum: the update that lies closest to others."""

from typing_extensions import override

from fedmeta.federation.aggregation.multi_krum import MultiKrum


class Krum(MultiKrum):
    """The update with the lowest score; Multi-Krum that keeps one (Blanchard et al. 2017, section 4)."""

    keys = ("malicious",)

    @override
    def kept(self, updates: int) -> int:
        return 1
