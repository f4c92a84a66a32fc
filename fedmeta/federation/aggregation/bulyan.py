"""Bulyan: Krum selection, then a trimmed mean about the median."""

from collections.abc import Sequence

from typing_extensions import override

from fedmeta.federation.aggregation import Vectors, by_coordinate, krum_scores, squared_distances
from fedmeta.federation.aggregation.multi_krum import KrumRule


class Bulyan(KrumRule):
    """Selects by Krum, one update at a time, then averages each coordinate about its median.

    El Mhamdi, Guerraoui, Rouault 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium",
    section 4 (arXiv:1802.07927). First Krum selects ``theta = n - 2f`` updates one at a time, scoring
    the remaining ones again each time; ties go to the first. Then each coordinate is the mean of the
    ``beta = theta - 2f`` selected values closest to their median (the lower middle value of an even
    number); ties go to the lower value.
    """

    of_each = 4

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        import numpy as np

        malicious = self.options.malicious
        distances = squared_distances(vectors)
        left, selected = list(range(len(vectors))), []
        for _ in range(len(vectors) - 2 * malicious):
            best = int(np.argmin(krum_scores(distances[np.ix_(left, left)], malicious)))
            selected.append(left.pop(best))
        beta = len(selected) - 2 * malicious
        return by_coordinate(
            [vectors[row] for row in selected], lambda ordered: _mean_about_median(ordered, beta)
        )


def _mean_about_median(ordered: Vectors, count: int) -> Vectors:
    """Return the mean of the `count` values closest to the median, by coordinate."""
    import numpy as np

    middle = ordered[(len(ordered) - 1) // 2]
    # In ascending order these values are adjacent: find the first window that no shift right improves.
    below, above = middle - ordered[:-count], ordered[count:] - middle
    first = (below > above).sum(axis=0)
    window = first + np.arange(count)[:, None]
    mean: Vectors = np.take_along_axis(ordered, window, axis=0).mean(axis=0)
    return mean
