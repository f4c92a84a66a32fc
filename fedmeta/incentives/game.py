"""A round as a cooperative game: players, coalitions, and what each coalition would have achieved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    updates: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.clients)

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

    Args:
        players: Who plays.
        utility: What a coalition is worth; None for rules that do not ask.
    """

    def __init__(self, players: Players, utility: Utility | None = None) -> None:
        self.players = players
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
        asked = [tuple(sorted(coalition)) for coalition in coalitions]
        new = list(dict.fromkeys(c for c in asked if c not in self._known))
        if new:
            if self._utility is None:
                raise ValueError("this game was set up without a utility")
            self._known.update(zip(new, self._utility(new), strict=True))
        return [self._known[coalition] for coalition in asked]

    def value(self, coalition: Iterable[int]) -> float:
        """Return what one coalition is worth."""
        return self.values([coalition])[0]
