"""Per-tensor rules of an update: which are checked, how they are averaged and stepped."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmeta.federation.aggregation import (
    AGGREGATION_RULES,
    AggregationOptions,
    Aggregator,
    Vectors,
    build_aggregator,
)
from fedmeta.federation.codec import Codec, Slot
from fedmeta.federation.gate import Update
from fedmeta.learning import Algorithm, KeyRule

Places = NDArray[np.intp]
"""Indices of values in a flat update."""
Warn = Callable[[str], None]


class UpdateKeys:
    """An algorithm's rules for its tensors, as indices into flat updates ``[D]``.

    Args:
        algorithm: Gives the rules (see `KeyRule`).
        codec: Codec of the state, which knows each tensor's place in a flat update.
        population: Number of training clients.

    Attributes:
        checked: Indices of the values that the gate checks; None: all.
        scored: Indices of the values by which contributions are scored; None: all.
    """

    def __init__(self, algorithm: Algorithm, codec: Codec, population: int) -> None:
        self.population = population
        self.size = codec.size
        self._rules = {slot: algorithm.key_rule(slot.key) for slot in codec.slots}
        self.checked = self._places(lambda rule: rule.checked)
        self.scored = self._places(lambda rule: rule.checked and rule.step == "optimizer")

    def aggregator(self, options: AggregationOptions, round_: int, warn: Warn) -> Aggregator:
        """Return an aggregator for one round's updates, by the rule of `options`."""
        ways = {(rule.average, rule.checked) for rule in self._rules.values()}
        if ways <= {("tasks", True)}:
            return build_aggregator(options, round_, self.size, warn)
        return _ByKey(self, options, round_, warn)

    def groups(self) -> Iterable[tuple[KeyRule, Places]]:
        """Yield the indices of values that are aggregated in the same way, with their rule."""
        rules = [rule._replace(step="optimizer") for rule in self._rules.values()]
        for way in dict.fromkeys(rules):
            yield way, _joined(s for s, rule in zip(self._rules, rules, strict=True) if rule == way)

    def _places(self, wanted: Callable[[KeyRule], bool]) -> Places | None:
        if all(wanted(rule) for rule in self._rules.values()):
            return None
        return _joined(slot for slot, rule in self._rules.items() if wanted(rule))


class _ByKey:
    """Aggregates groups of values by their own rules; a rule that selects does so in each group."""

    def __init__(self, keys: UpdateKeys, options: AggregationOptions, round_: int, warn: Warn) -> None:
        self._keys = keys
        self._admitted = 0
        self._parts: list[tuple[KeyRule, Places, Aggregator]] = []
        for way, places in keys.groups():
            kind = AGGREGATION_RULES.get(options.rule if way.checked else "mean")
            self._parts.append((way, places, kind(options, round_, len(places), warn)))

    def add(self, update: Update) -> None:
        self._admitted += 1
        for way, places, part in self._parts:
            tasks = update.tasks if way.average == "tasks" else 1
            part.add(replace(update, vector=update.vector[places], tasks=tasks))

    def result(self) -> Vectors:
        whole = np.empty(self._keys.size)
        for way, places, part in self._parts:
            share = self._admitted / self._keys.population if way.average == "population" else 1.0
            whole[places] = part.result() * share
        return whole


def _joined(slots: Iterable[Slot]) -> Places:
    ranges = [np.arange(slot.start, slot.stop) for slot in slots]
    return np.concatenate(ranges) if ranges else np.arange(0)
