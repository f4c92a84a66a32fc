"""Robust aggregation: options, and their application to a round's updates."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from fedmeta.errors import ConfigError
from fedmeta.federation.aggregation.mean import Aggregator, TaskWeightedMean
from fedmeta.federation.aggregation.rules import Vectors, bulyan, by_coordinate, median, multi_krum
from fedmeta.federation.gate import Update
from fedmeta.options import Options, nearest

log = logging.getLogger(__name__)

Rule = Literal["mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan"]

_ROUNDING = 1e-9
"""So that a trim of 0.29 cuts 29 of 100, though 0.29 * 100 is a little less in floating point."""


class AggregationOptions(Options):
    """How admitted updates become one.

    Attributes:
        rule: ``mean`` over tasks; ``median`` and ``trimmed-mean`` by coordinate (Yin et al. 2018,
            arXiv:1803.01498); ``krum``, ``multi-krum`` (Blanchard et al. 2017, arXiv:1703.02757);
            ``bulyan`` (El Mhamdi et al. 2018, arXiv:1802.07927); or the dotted path of a Flower
            strategy, which then steps instead of the server's optimizer. All but the mean hold a round's
            updates in memory.
        malicious: Clients of a round that ``krum``, ``multi-krum`` and ``bulyan`` withstand; at least 1.
        keep: Updates that ``multi-krum`` averages over their tasks; None: all but the malicious, which
            is also the most.
        trim: Share of the values that ``trimmed-mean`` leaves out at either end, rounded down to whole
            updates.
        options: Keyword arguments of a Flower strategy.
    """

    rule: str = "mean"
    malicious: int = Field(0, ge=0)
    keep: int | None = Field(None, ge=1)
    trim: float = Field(0.2, ge=0.0, lt=0.5)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_strategy(self) -> bool:
        """Whether the rule is a Flower strategy of the user's choice."""
        return "." in self.rule or ":" in self.rule

    @property
    def least(self) -> int:
        """The fewest updates that the rule is defined for with so many malicious ones."""
        needs = {
            "krum": 2 * self.malicious + 3,
            "multi-krum": 2 * self.malicious + 3,
            "bulyan": 4 * self.malicious + 3,
        }
        return needs.get(self.rule, 1)

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> "AggregationOptions":
        if not self.is_strategy and self.rule not in get_args(Rule):
            raise ValueError(f"unknown rule '{self.rule}': {nearest(self.rule, get_args(Rule))}")
        for key, (rules, changed) in self._uses().items():
            if changed and self.rule not in rules:
                whose = (
                    f"it belongs to {', '.join(rules)}" if rules else "it belongs to a Flower strategy"
                )
                raise ValueError(f"{key} has no effect with rule '{self.rule}': {whose}")
        if self.rule in _SELECTING and not self.malicious:
            raise ValueError(f"rule '{self.rule}' withstands nobody with malicious = 0: set at least 1")
        return self

    def _uses(self) -> dict[str, tuple[tuple[str, ...], bool]]:
        """Return, for each key, the rules that read it and whether it was changed."""
        options = (self.rule,) if self.is_strategy else ()
        return {
            "malicious": (_SELECTING, self.malicious != 0),
            "keep": (("multi-krum",), self.keep is not None),
            "trim": (("trimmed-mean",), self.trim != type(self).model_fields["trim"].default),
            "options": (options, bool(self.options)),
        }

    def check(self, quorum: int, cohort: int) -> None:
        """Refuse a quorum with too few updates for the rule, and a cohort with which it does nothing.

        Raises:
            ConfigError: If one of them is too small.
        """
        if max(1, quorum) < self.least:
            raise ConfigError(
                f"aggregation.rule = '{self.rule}' with aggregation.malicious = {self.malicious} "
                f"needs a quorum of at least {self.least}, not {quorum}"
            )
        if self.rule == "trimmed-mean" and not trimmed(self.trim, cohort):
            raise ConfigError(
                f"aggregation.trim = {self.trim:g} trims nobody of a cohort of {cohort}: "
                f"{_what_would_trim(self.trim, cohort)}"
            )
        if self.keep is not None and self.keep > cohort - self.malicious:
            raise ConfigError(
                f"aggregation.keep = {self.keep} is more than a cohort of {cohort} has "
                f"beside aggregation.malicious = {self.malicious}: at most {cohort - self.malicious}"
            )


_SELECTING = ("krum", "multi-krum", "bulyan")


def trimmed(trim: float, updates: int) -> int:
    """Return how many updates a trimmed mean leaves out at either end."""
    return int(trim * updates + _ROUNDING)


def _what_would_trim(trim: float, cohort: int) -> str:
    cures = []
    if cohort > 2:
        cures.append(f"set trim to at least {math.ceil(1e4 / cohort) / 1e4:g}")
    if trim:
        cures.append(f"set cohort to at least {math.ceil(1 / trim - _ROUNDING)}")
    return ", or ".join(cures)


class RobustAggregator:
    """Holds the updates of a round, then applies a rule to them.

    Args:
        options: Which rule.
        round_: The round.
        warn: Called with a line if the rule can do nothing with so few updates.
    """

    def __init__(
        self, options: AggregationOptions, round_: int, warn: Callable[[str], None] = log.warning
    ) -> None:
        self.options = options
        self.round = round_
        self._warn = warn
        self._updates: list[Update] = []

    def add(self, update: Update) -> None:
        """Take an update; it is copied."""
        self._updates.append(replace(update, vector=update.vector.copy()))

    def result(self) -> Vectors:
        """Return what the rule makes of the updates, flat."""
        options, rows = self.options, [update.vector for update in self._updates]
        if options.rule == "median":
            return by_coordinate(rows, median)
        if options.rule == "trimmed-mean":
            return by_coordinate(rows, self._trimmed_mean(len(rows)))
        if options.rule == "bulyan":
            return bulyan(rows, options.malicious)
        most = len(rows) - options.malicious
        keep = 1 if options.rule == "krum" else min(options.keep or most, most)
        mean = TaskWeightedMean(rows[0].size)
        for row in sorted(multi_krum(rows, options.malicious, keep)):
            mean.add(self._updates[row])
        return mean.result()

    def _trimmed_mean(self, updates: int) -> Callable[[Vectors], Vectors]:
        cut = trimmed(self.options.trim, updates)
        if not cut:
            self._warn(
                f"round {self.round}: aggregation.trim = {self.options.trim:g} trims nobody of "
                f"{updates} updates: this is their plain mean (said once)"
            )

        def rule(ordered: Vectors) -> Vectors:
            mean: Vectors = ordered[cut : updates - cut].mean(axis=0)
            return mean

        return rule


def build_aggregator(
    options: AggregationOptions, round_: int, size: int, warn: Callable[[str], None] = log.warning
) -> Aggregator:
    """Return what takes the updates of one round, of `size` values each."""
    if options.rule == "mean":
        return TaskWeightedMean(size)
    return RobustAggregator(options, round_, warn)
