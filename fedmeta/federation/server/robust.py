"""Robust aggregation: Flower's own strategies, given the admitted updates and nothing else."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Strategy
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.federation.client import ARRAYS, METRICS, TASKS
from fedmeta.federation.flower import quiet
from fedmeta.federation.server.aggregate import Aggregator, TaskWeightedMean
from fedmeta.federation.server.gate import Update
from fedmeta.options import Options

Rule = Literal["mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan"]
UPDATE = "update"


class AggregationOptions(Options):
    """How admitted updates become one.

    Attributes:
        rule: ``mean`` over tasks; ``median`` and ``trimmed-mean`` by coordinate (Yin et al. 2018,
            arXiv:1803.01498); ``krum``, ``multi-krum`` (Blanchard et al. 2017); ``bulyan`` (El Mhamdi et
            al. 2018, arXiv:1802.07927). All but the mean hold a round's updates in memory.
        malicious: Clients of a round that ``krum``, ``multi-krum`` and ``bulyan`` withstand.
        keep: Updates that ``multi-krum`` averages; None: all but the malicious.
        trim: Share of the values that ``trimmed-mean`` leaves out at either end.
    """

    rule: Rule = "mean"
    malicious: int = Field(0, ge=0)
    keep: int | None = Field(None, ge=1)
    trim: float = Field(0.2, ge=0.0, lt=0.5)

    @property
    def least(self) -> int:
        """The fewest updates that the rule is defined for with so many malicious ones."""
        needs = {
            "krum": 2 * self.malicious + 3,
            "multi-krum": 2 * self.malicious + 3,
            "bulyan": 4 * self.malicious + 3,
        }
        return needs.get(self.rule, 1)

    def check(self, quorum: int) -> None:
        """Refuse a quorum with which the rule could be left with too few updates.

        Raises:
            ConfigError: If it is too small.
        """
        if max(1, quorum) < self.least:
            raise ConfigError(
                f"aggregation.rule = '{self.rule}' with aggregation.malicious = {self.malicious} "
                f"needs a quorum of at least {self.least}, not {quorum}"
            )


def build_aggregator(options: AggregationOptions, round_: int, size: int) -> Aggregator:
    """Return what takes the updates of one round, of `size` values each."""
    if options.rule == "mean":
        return TaskWeightedMean(size)
    return FlowerAggregator(options, round_)


class FlowerAggregator:
    """Hands the updates to a strategy of Flower's, which aggregates them as it would replies.

    The strategy sees flat vectors: a median, a trimmed mean and a distance are the same however the
    values are cut into tensors. It checks nothing itself; the gate has.

    Args:
        options: Which strategy.
        round_: The round.
    """

    def __init__(self, options: AggregationOptions, round_: int) -> None:
        self.options = options
        self.round = round_
        self._replies: list[Message] = []

    def add(self, update: Update) -> None:
        """Take an update; it is copied."""
        arrays = ArrayRecord({UPDATE: Array(update.vector.copy())})
        content = RecordDict({ARRAYS: arrays, METRICS: MetricRecord({TASKS: update.tasks})})
        self._replies.append(Message(content, update.client + 1, MessageType.TRAIN))

    def result(self) -> NDArray[np.float64]:
        """Return what the strategy makes of the updates, flat."""
        strategy = _STRATEGIES[self.options.rule](self.options, len(self._replies))
        with quiet():
            arrays, _ = strategy.aggregate_train(self.round, self._replies)
        if arrays is None:
            raise RuntimeError(f"{type(strategy).__name__} aggregated nothing")
        return arrays[UPDATE].numpy().astype(np.float64, copy=False)


def _multi_krum(options: AggregationOptions, updates: int) -> Strategy:
    keep = options.keep or max(1, updates - options.malicious)
    return MultiKrum(
        num_malicious_nodes=options.malicious, num_nodes_to_select=keep, weighted_by_key=TASKS
    )


_STRATEGIES: dict[str, Callable[[AggregationOptions, int], Strategy]] = {
    "median": lambda _, __: FedMedian(weighted_by_key=TASKS),
    "trimmed-mean": lambda options, _: FedTrimmedAvg(beta=options.trim, weighted_by_key=TASKS),
    "krum": lambda options, _: Krum(num_malicious_nodes=options.malicious, weighted_by_key=TASKS),
    "multi-krum": _multi_krum,
    "bulyan": lambda options, _: Bulyan(num_malicious_nodes=options.malicious, weighted_by_key=TASKS),
}
