"""A round as a cooperative game: players, coalitions, and what each coalition would have achieved."""

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
"""Indices of players, increasing; ``()`` is nobody."""


@dataclass(frozen=True)
class Players:
    """Whose updates were admitted in a round.

    Attributes:
        clients: Partition ids, in the order that everything else here follows; N in number.
        tasks: Training tasks behind each update.
        updates: Flat pseudo-gradients ``[N, D]``; ``[N, 0]`` for rules that do not read them.
        norms: The updates' Euclidean norms, for rules that read no more; empty: see `updates`.
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    updates: NDArray[np.float64]
    norms: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.clients)

    @cached_property
    def idle(self) -> frozenset[int]:
        """Players whose update is zeros."""
        if self.updates.shape[1]:
            return frozenset(np.flatnonzero(~self.updates.any(axis=1)).tolist())
        return frozenset(player for player, norm in enumerate(self.norms) if not norm)

    @cached_property
    def twins(self) -> dict[int, list[int]]:
        """Players with the same update and tasks as others, each with all of its group, itself too."""
        groups: dict[tuple[int, bytes], list[int]] = {}
        if self.updates.shape[1]:
            for player, update in enumerate(self.updates):
                # The sum has one zero where an update may have two.
                key = self.tasks[player], hashlib.sha256((update + 0.0).tobytes()).digest()
                groups.setdefault(key, []).append(player)
        return {player: group for group in groups.values() if len(group) > 1 for player in group}

    @cached_property
    def cancel(self) -> bool:
        """Whether the updates' weighted sum is zeros but for rounding: together they changed nothing."""
        if not self.updates.shape[1]:
            return len(self.idle) == len(self)
        tasks = np.array(self.tasks, dtype=np.float64)
        most = len(self) * np.finfo(np.float64).eps * (tasks @ np.abs(self.updates))
        return bool((np.abs(tasks @ self.updates) <= most).all())

    def shortened(self, longest: float) -> "Players":
        """Scale updates down that are longer than `longest` times the median length (0: no limit).

        The norm bound of Sun, Kairouz, Suresh, McMahan 2019, "Can You Really Backdoor Federated
        Learning?" (arXiv:1911.07963), with the round's own scale. Updates of zeros have no say in it.
        """
        lengths = torch.linalg.vector_norm(torch.from_numpy(self.updates), dim=1).numpy()
        if not longest or not lengths.any():
            return self
        limit = longest * float(np.median(lengths[lengths > 0]))
        factors = limit / np.maximum(lengths, limit)
        return replace(self, updates=self.updates * factors[:, None])


class Utility(Protocol):
    """What coalitions are worth, several at once; higher is better."""

    def __call__(self, coalitions: Sequence[Coalition]) -> list[float]:
        """Return the worth of each coalition, finite, in their order."""
        ...


class Game:
    """The game of one round; no coalition is measured twice.

    Two coalitions that send the same are one: who is idle adds nothing to any of them, and of players
    with equal updates only the number counts. So the axioms hold to the last bit, whatever the utility's
    rounding: a null player is worth 0, and equal ones are worth the same.

    Args:
        players: Who plays.
        utility: What a coalition is worth; None for rules that do not ask.
        precision: Rounding error of a worth, relative to it.
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
        """How many coalitions have been measured so far."""
        return len(self._known)

    def values(self, coalitions: Iterable[Iterable[int]]) -> list[float]:
        """Return what each of some coalitions is worth, given as players in any order."""
        asked = [self._canonical(coalition) for coalition in coalitions]
        new = list(dict.fromkeys(c for c in asked if c not in self._known))
        if new:
            if self._utility is None:
                raise ValueError("this game was set up without a utility")
            self._known.update(zip(new, self._utility(new), strict=True))
        return [self._known[coalition] for coalition in asked]

    def _canonical(self, coalition: Iterable[int]) -> Coalition:
        """Return the coalition that stands for all that send the same: its twins come first."""
        twins, present = self.players.twins, sorted(set(coalition) - self.players.idle)
        count = Counter(twins[player][0] for player in present if player in twins)
        first = [player for group in count for player in twins[group][: count[group]]]
        return tuple(sorted([*first, *(player for player in present if player not in twins)]))

    def value(self, coalition: Iterable[int]) -> float:
        """Return what one coalition is worth."""
        return self.values([coalition])[0]
