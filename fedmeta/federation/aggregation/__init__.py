"""Aggregation rules, which combine admitted updates; one module and class per rule."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import override

import fedmeta.options
from fedmeta import parts
from fedmeta.errors import ConfigError
from fedmeta.options import Options, nearest
from fedmeta.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedmeta.federation.gate import Update

# A config has the keys of all rules, and is read without NumPy and torch: rules import them where
# they compute.
Vectors: TypeAlias = "NDArray[np.float64]"

_BLOCK = 1024
"""Coordinates processed at once: for a few dozen updates they fit a core's cache."""


def by_coordinate(rows: Sequence[Vectors], rule: Callable[[Vectors], Vectors]) -> Vectors:
    """Apply a rule to the values of each coordinate.

    Args:
        rows: n updates ``[D]``.
        rule: Maps ascending values ``[n, B]`` to one value per coordinate ``[B]``.

    Returns:
        The result, ``[D]``. It does not depend on the order of the updates.
    """
    import numpy as np

    result = np.empty(rows[0].size)
    for block in _blocks(rows[0].size):
        # NumPy sorts short contiguous runs much faster than columns.
        values = np.sort(np.stack([row[block] for row in rows], axis=1), axis=1)
        result[block] = rule(np.ascontiguousarray(values.T))
    return result


def _blocks(size: int) -> Iterator[slice]:
    return (slice(first, min(first + _BLOCK, size)) for first in range(0, size, _BLOCK))


def squared_distances(rows: Sequence[Vectors]) -> Vectors:
    """Return the squared Euclidean distances between n updates, ``[n, n]``.

    Computed as sums of squared differences, so equal updates have distance 0 and close updates far from
    0 do not suffer the cancellation of ``|x|^2 + |y|^2 - 2xy``.
    """
    import numpy as np
    import torch

    count, size = len(rows), rows[0].size
    sums = torch.zeros(count * (count - 1) // 2, dtype=torch.float64)
    for block in _blocks(size):
        values = torch.from_numpy(np.stack([row[block] for row in rows]))
        sums += torch.nn.functional.pdist(values).square()
    distances = np.zeros((count, count))
    distances[np.triu_indices(count, 1)] = sums.numpy()
    return distances + distances.T


def krum_scores(distances: Vectors, malicious: int) -> Vectors:
    """Return Krum's scores: the sum of squared distances to the n - f - 2 nearest others, ``[n]``.

    The nearest one always counts, which Bulyan needs as its set shrinks.
    """
    import numpy as np

    count = len(distances)
    others = np.sort(distances[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    scores: Vectors = others[:, : max(1, count - malicious - 2)].sum(axis=1)
    return scores


log = logging.getLogger(__name__)

AGGREGATION_RULES: Registry[type[AggregationRule]] = parts.AGGREGATION_RULES


class Aggregator(Protocol):
    """Accumulates one round's admitted updates, in order of partition id."""

    def add(self, update: Update) -> None:
        """Add one update; copy its vector to keep it."""
        ...

    def result(self) -> Vectors:
        """Return the aggregated pseudo-gradient ``[D]`` of at least one update."""
        ...


class AggregationRule(ABC, Aggregator):
    """Base class of fedmeta's own rules; one instance per round.

    Args:
        options: ``[aggregation]`` of the config, including the keys of the rule's own `Options`.
        round_: The round.
        size: Values in an update, D.
        warn: Called with a message if the rule has no effect on so few updates.
    """

    Options: ClassVar[type[fedmeta.options.Options]] = fedmeta.options.Options
    """The keys of ``[aggregation]`` that the rule reads."""
    options: Any

    def __init__(
        self,
        options: fedmeta.options.Options,
        round_: int,
        size: int,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        self.options = options
        self.round = round_
        self.size = size
        self.warn = warn

    @classmethod
    def mistake(cls, options: Any) -> str | None:  # noqa: ARG003
        """Return what is wrong with the options for any cohort; None if nothing."""
        return None

    @classmethod
    def problem(cls, options: Any, quorum: int, cohort: int) -> str | None:  # noqa: ARG003
        """Return why the options do not suit a quorum or cohort, and a fix; None if they do."""
        return None

    @override
    @abstractmethod
    def add(self, update: Update) -> None: ...

    @override
    @abstractmethod
    def result(self) -> Vectors: ...


class StackingRule(AggregationRule):
    """Base class of rules that need all updates of a round at once."""

    @override
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._vectors: list[Vectors] = []
        self._tasks: list[int] = []

    @override
    def add(self, update: Update) -> None:
        self._vectors.append(update.vector.copy())
        self._tasks.append(update.tasks)

    @override
    def result(self) -> Vectors:
        return self.combine(self._vectors, self._tasks)

    @abstractmethod
    def combine(self, vectors: Sequence[Vectors], tasks: Sequence[int]) -> Vectors:
        """Return one update ``[D]`` for n updates ``[D]`` and the tasks behind each, ``[n]``."""


class _Rule(Options):
    """The choice of rule.

    Attributes:
        rule: ``mean`` over tasks; ``median`` and ``trimmed-mean`` by coordinate (Yin et al. 2018,
            arXiv:1803.01498); ``krum``, ``multi-krum`` (Blanchard et al. 2017, arXiv:1703.02757);
            ``bulyan`` (El Mhamdi et al. 2018, arXiv:1802.07927); or the dotted path of a Flower
            strategy, which replaces the server's optimizer. All but the mean hold a round's updates in
            memory.
    """

    rule: str = "mean"


def _declared_by_rules() -> tuple[type[Options], ...]:
    """Return the rules' options classes, without those that another one inherits from."""
    kinds = {AGGREGATION_RULES.get(name).Options: None for name in AGGREGATION_RULES}
    return tuple(
        kind
        for kind in reversed(kinds)
        if not any(other is not kind and issubclass(other, kind) for other in kinds)
    )


if TYPE_CHECKING:

    class _OfRules(Options): ...

else:
    # Each rule declares its keys in its own file; the config has them in one table.
    _OfRules = type("_OfRules", _declared_by_rules(), {"__module__": __name__})


class AggregationOptions(_OfRules, _Rule):
    """The rule, the keys of all rules, and the options of a Flower strategy.

    Attributes:
        options: Keyword arguments of a Flower strategy.
    """

    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_strategy(self) -> bool:
        """Whether the rule is a Flower strategy of the user's choice."""
        return "." in self.rule or ":" in self.rule

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> AggregationOptions:
        if not self.is_strategy and self.rule not in AGGREGATION_RULES:
            raise ValueError(f"unknown rule '{self.rule}': {nearest(self.rule, AGGREGATION_RULES)}")
        keys = {name: AGGREGATION_RULES.get(name).Options.model_fields for name in AGGREGATION_RULES}
        own = ("options",) if self.is_strategy else keys[self.rule]
        for key, field in type(self).model_fields.items():
            if key in own or key == "rule":
                continue
            if getattr(self, key) != field.get_default(call_default_factory=True):
                whose = ", ".join(rule for rule in keys if key in keys[rule]) or "a Flower strategy"
                raise ValueError(f"{key} has no effect with rule '{self.rule}': it belongs to {whose}")
        if not self.is_strategy and (wrong := AGGREGATION_RULES.get(self.rule).mistake(self)):
            raise ValueError(f"rule '{self.rule}' {wrong}")
        return self

    def check(self, quorum: int, cohort: int) -> None:
        """Refuse a quorum that is too small for the rule, and a cohort on which it has no effect.

        Raises:
            ConfigError: If one of them is too small.
        """
        if self.is_strategy:
            return
        if problem := AGGREGATION_RULES.get(self.rule).problem(self, quorum, cohort):
            raise ConfigError(problem)


def build_aggregator(
    options: AggregationOptions, round_: int, size: int, warn: Callable[[str], None] = log.warning
) -> Aggregator:
    """Return an aggregator for one round's updates of `size` values each."""
    return AGGREGATION_RULES.get(options.rule)(options, round_, size, warn)
