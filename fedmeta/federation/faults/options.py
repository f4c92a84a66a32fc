"""The config's table of faults."""

from typing import Any

from pydantic import Field, field_validator

from fedmeta.errors import ConfigError
from fedmeta.options import Options, nearest

KINDS = {
    "crash-before": "raises before it trains",
    "crash-during": "raises while it trains",
    "crash-after": "raises after it trained, before it replies",
    "late": "replies `seconds` after the request",
    "twice": "its reply arrives twice",
    "old-round": "answers for the round before",
    "vanish": "is not there for `away` rounds",
    "move": "is not there for `away` rounds, and comes back with another node id",
    "wrong-keys": "replies with a key that no state has",
    "wrong-shapes": "replies with an array of another shape",
    "wrong-dtypes": "replies with an array of another dtype",
    "nan": "replies with a NaN",
    "huge-tasks": "claims a thousand million tasks",
    "garbage": "replies with random bytes for arrays",
    "no-records": "replies with nothing in it",
}
"""What a client does in a round in which it meets a fault, by kind."""

AWAY = ("vanish", "move")
"""Kinds by which a client is not there for some rounds."""


class FaultOptions(Options):
    """What goes wrong in a run.

    Attributes:
        seed: Of the faults that are drawn; None: the run's.
        rates: By kind the chance that a client meets it in a round in which it is asked.
        seconds: Mean delay of a late reply that is drawn; delays are distributed exponentially.
        away: Rounds that a client that is drawn to vanish or move is away.
        entries: Faults by name: tables of kind, clients, rounds and, by kind, seconds or away.
    """

    seed: int | None = Field(None, ge=0, lt=2**63)
    rates: dict[str, float] = Field(default_factory=dict)
    seconds: float = Field(600.0, gt=0)
    away: int = Field(2, ge=1, le=1000)
    entries: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def any(self) -> bool:
        """Whether anything can go wrong at all."""
        return bool(self.kinds)

    @property
    def kinds(self) -> set[str]:
        """What can go wrong, as far as it is named."""
        drawn = {kind for kind, rate in self.rates.items() if rate}
        return drawn | {str(entry.get("kind")) for entry in self.entries}

    @field_validator("rates")
    @classmethod
    def _are_chances(cls, rates: dict[str, float]) -> dict[str, float]:
        for kind, rate in rates.items():
            if kind not in KINDS:
                raise ConfigError(f"faults.rates: unknown fault '{kind}': {nearest(kind, KINDS)}")
            if not 0.0 <= rate <= 1.0:
                raise ConfigError(f"faults.rates.{kind}: a chance is within 0 and 1 (got {rate:g})")
        if sum(rates.values()) > 1.0 + 1e-9:
            total = sum(rates.values())
            raise ConfigError(
                f"faults.rates: a client meets one fault at a time, but they sum to {total:g}"
            )
        return rates


class Entry(Options):
    """One of ``[[faults.entries]]``.

    Attributes:
        kind: What goes wrong.
        clients: Partition ids of the training clients that it befalls.
        rounds: The rounds in which it does.
        seconds: Delay of a late reply; None: that of the plan.
        away: Rounds that a client is away; None: that of the plan.
    """

    kind: str
    clients: list[int]
    rounds: list[int]
    seconds: float | None = Field(None, gt=0)
    away: int | None = Field(None, ge=1, le=1000)
