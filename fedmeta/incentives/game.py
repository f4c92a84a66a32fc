"""A round as a cooperative game: players, coalitions and their utility."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Coalition = tuple[int, ...]
"""Indices of players, increasing; ``()`` is the empty coalition."""


@dataclass(frozen=True)
class Players:
    """The clients whose updates were admitted in a round.

    Attributes:
        clients: N partition ids, whose order all else follows.
        tasks: Training tasks of each update.
        updates: Flat pseudo-gradients ``[N, D]``; ``[N, 0]`` for rules that do not read them.
        norms: The updates' Euclidean norms, for rules that do not read `updates`; else may be empty.
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    updates: NDArray[np.float64]
    norms: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.clients)

    @cached_property
    def idle(self) -> frozenset[int]:
        """Players whose update is zero."""
        if self.updates.shape[1]:
            return frozenset(np.flatnonzero(~self.updates.any(axis=1)).tolist())
        return frozenset(player for player, norm in enumerate(self.norms) if not norm)

    @cached_property
    def twins(self) -> dict[int, list[int]]:
        """Players with equal updates and tasks: for each, its group including itself."""
        groups: dict[tuple[int, bytes], list[int]] = {}
        if self.updates.shape[1]:
            for player, update in enumerate(self.updates):
                # Adding 0.0 turns -0.0 into 0.0, so that equal updates have equal bytes.
                key = self.tasks[player], hashlib.sha256((update + 0.0).tobytes()).digest()
                groups.setdefault(key, []).append(player)
        return {player: group for group in groups.values() if len(group) > 1 for player in group}

    @cached_property
    def cancel(self) -> bool:
        """Whether the updates' weighted sum is zero up to rounding, so the round changed nothing."""
        if not self.updates.shape[1]:
            return len(self.idle) == len(self)
        tasks = np.array(self.tasks, dtype=np.float64)
        most = len(self) * np.finfo(np.float64).eps * (tasks @ np.abs(self.updates))
        return bool((np.abs(tasks @ self.updates) <= most).all())

    def shortened(self, longest: float) -> "Players":
        """Scale down updates longer than `longest` times the median length (0: no limit).

        The norm bound of Sun, Kairouz, Suresh, McMahan 2019, "Can You Really Backdoor Federated
        Learning?" (arXiv:1911.07963), with the round's own scale. Zero updates do not count in it.
        """
        lengths = torch.linalg.vector_norm(torch.from_numpy(self.updates), dim=1).numpy()
        if not longest or not lengths.any():
            return self
        limit = longest * float(np.median(lengths[lengths > 0]))
        factors = limit / np.maximum(lengths, limit)
        return replace(self, updates=self.updates * factors[:, None])


class Utility(Protocol):
    """Utility of coalitions, several at once; higher is better."""

    def __call__(self, coalitions: Sequence[Coalition]) -> list[float]:
        """Return the finite utility of each coalition, in order."""
        ...


class Game:
    """The game of one round, which measures no coalition twice.

    Coalitions with the same sum of updates are one: idle players add nothing, and among players with
    equal updates only the number counts. So the axioms hold to the last bit, whatever the utility's
    rounding: a null player has value 0, and equal players have equal values.

    Args:
        players: The players.
        utility: Utility of coalitions; None for rules that do not use it.
        precision: Relative rounding error of a utility.
    """

    def __init__(self, players: Players, utility: Utility | None = None, precision: float = 0.0) -> None:
        self.players = players
        self.precision = precision
        self._utility = utility
        self._known: dict[Coalition, float] = {}

    @property
    def everybody(self) -> Coalition:
        """The grand coalition."""
        return tuple(range(len(self.players)))

    @property
    def measured(self) -> int:
        """Number of coalitions measured so far."""
        return len(self._known)

    def values(self, coalitions: Iterable[Iterable[int]]) -> list[float]:
        """Return the utility of each coalition, given as players in any order."""
        asked = [self._canonical(coalition) for coalition in coalitions]
        new = list(dict.fromkeys(c for c in asked if c not in self._known))
        if new:
            if self._utility is None:
                raise ValueError("this game was set up without a utility")
            self._known.update(zip(new, self._utility(new), strict=True))
        return [self._known[coalition] for coalition in asked]

    def _canonical(self, coalition: Iterable[int]) -> Coalition:
        """Return the representative of coalitions with the same updates, which uses the first twins."""
        twins, present = self.players.twins, sorted(set(coalition) - self.players.idle)
        count = Counter(twins[player][0] for player in present if player in twins)
        first = [player for group in count for player in twins[group][: count[group]]]
        return tuple(sorted([*first, *(player for player in present if player not in twins)]))

    def value(self, coalition: Iterable[int]) -> float:
        """Return the utility of one coalition."""
        return self.values([coalition])[0]
