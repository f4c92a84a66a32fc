"""Multi-Krum: the mean of the updates closest to the others."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.aggregation import StackingRule, Vectors, krum_scores, squared_distances
from fedmeta.federation.aggregation.mean import Mean


class KrumOptions(options.Options):
    """Options of the Krum rules.

    Attributes:
        malicious: Malicious clients per round that ``krum``, ``multi-krum`` and ``bulyan`` tolerate; at
            least 1.
    """

    malicious: int = Field(0, ge=0)


class MultiKrumOptions(KrumOptions):
    """Options of `MultiKrum`.

    Attributes:
        keep: Updates that ``multi-krum`` averages, weighted by tasks; None: all but ``malicious``, which
            is also the maximum.
    """

    keep: int | None = Field(None, ge=1)


class KrumRule(StackingRule):
    """Base class of the Krum rules; they need a quorum of ``of_each * malicious + 3``."""

    Options: ClassVar[type[KrumOptions]] = KrumOptions
    options: KrumOptions
    of_each: ClassVar[int]
    """Updates needed for each malicious one."""

    @override
    @classmethod
    def mistake(cls, options: Any) -> str | None:
        if options.malicious:
            return None
        return "tolerates no malicious client with malicious = 0: set at least 1"

    @override
    @classmethod
    def problem(cls, options: Any, quorum: int, cohort: int) -> str | None:
        least = cls.of_each * options.malicious + 3
        if quorum >= least:
            return None
        return (
            f"aggregation.rule = '{options.rule}' with aggregation.malicious = "
            f"{options.malicious} needs a quorum of at least {least}, not {quorum}"
        )


class MultiKrum(KrumRule):
    """The mean over tasks of the ``keep`` updates with the lowest scores.

    Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", section 4 (arXiv:1703.02757). Ties go to the first client.
    """

    Options = MultiKrumOptions
    options: MultiKrumOptions
    of_each = 2

    @override
    @classmethod
    def problem(cls, options: Any, quorum: int, cohort: int) -> str | None:
        if found := super().problem(options, quorum, cohort):
            return found
        most = cohort - options.malicious
        if options.keep is None or options.keep <= most:
            return None
        return (
            f"aggregation.keep = {options.keep} is too large for a cohort of {cohort} "
            f"with aggregation.malicious = {options.malicious}: at most {most}"
        )

    @override
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        most = len(vectors) - self.options.malicious
        kept = min(self.options.keep or most, most)
        return mean_of_closest(vectors, tasks, self.options.malicious, kept)


def mean_of_closest(
    vectors: Sequence[Vectors], tasks: Sequence[int], malicious: int, kept: int
) -> Vectors:
    """Return the mean over tasks of the `kept` updates with the lowest scores."""
    import numpy as np

    scores = krum_scores(squared_distances(vectors), malicious)
    best = np.argsort(scores, kind="stable")[:kept]
    mean = Mean(options.Options(), 0, vectors[0].size)
    for row in sorted(best):
        mean.add_vector(vectors[row], tasks[row])
    return mean.result()
