"""Fault plans: which client meets which fault in which round."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from fedmeta.errors import ConfigError
from fedmeta.options import Options, nearest, parse_options

if TYPE_CHECKING:
    from fedmeta.tasks import Population

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


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a client in a round.

    Attributes:
        kind: One of `KINDS`.
        seconds: Delay of a late reply.
        away: Rounds that it is away, counted from the one in which the fault begins.
    """

    kind: str
    seconds: float = 0.0
    away: int = 0


@dataclass
class _Stay:
    """A client up to a round: what goes wrong with it, until when it is away, how often it moved."""

    round: int = 0
    fault: Fault | None = None
    until: int = 0
    moves: int = 0

    def advance(self, begins: Fault | None) -> None:
        """Go on to the next round, in which a fault may begin; who is away meets no other."""
        self.round += 1
        if self.round <= self.until:
            return
        self.moves += self.fault is not None and self.fault.kind == "move"
        self.fault = begins
        self.until = self.round + begins.away - 1 if begins and begins.away else 0


class FaultPlan:
    """The faults of a run. It keeps nothing from round to round, so a resumed run meets the same ones.

    A client meets at most one fault at a time: while it is away it meets no other, and an entry goes
    before what would be drawn.

    Args:
        options: Rates and delays.
        named: The entries, by round and client.
        seed: Of what is drawn.
    """

    def __init__(self, options: FaultOptions, named: Mapping[tuple[int, int], Fault], seed: int) -> None:
        self.options = options
        self.named = dict(named)
        self.seed = seed
        # A fixed order, so that a plan draws the same however its file is sorted.
        self._rates = sorted((kind, rate) for kind, rate in options.rates.items() if rate)
        kinds = {kind for kind, _ in self._rates} | {fault.kind for fault in self.named.values()}
        self._anybody_leaves = not kinds.isdisjoint(AWAY)
        self._stays: dict[int, _Stay] = {}

    def due(self, round_: int, client: int) -> Fault | None:
        """Return what goes wrong with a client in a round; None: nothing."""
        if not self._anybody_leaves:
            return self._find(round_, client)
        return self._stay(round_, client).fault

    def moves(self, round_: int, client: int) -> int:
        """Return how many times a client has come back with another node id, up to a round."""
        return self._stay(round_, client).moves if self._anybody_leaves else 0

    def _stay(self, round_: int, client: int) -> "_Stay":
        """Follow a client up to a round; from where it was looked at last, or from the first."""
        stay = self._stays.get(client)
        if stay is None or stay.round > round_:
            stay = self._stays[client] = _Stay()
        while stay.round < round_:
            stay.advance(self._find(stay.round + 1, client))
        return stay

    def _find(self, round_: int, client: int) -> Fault | None:
        named = self.named.get((round_, client))
        return named or (self._draw(round_, client) if self._rates else None)

    def _draw(self, round_: int, client: int) -> Fault | None:
        from fedmeta.tasks import stream

        rng = stream(self.seed, "fault", round_, client)
        left = rng.random()
        for kind, rate in self._rates:
            if left < rate:
                return _fault(kind, self.options, float(rng.exponential(self.options.seconds)), None)
            left -= rate
        return None


def read_faults(options: FaultOptions, population: "Population", rounds: int, seed: int) -> FaultPlan:
    """Read the ``[faults]`` table of a config.

    Args:
        options: The table.
        population: Says who trains.
        rounds: Length of the run.
        seed: Of the run.

    Raises:
        ConfigError: For an unknown kind or key, a client that does not train, a round that the run does
            not have, or a client with two faults in a round.
    """
    named: dict[tuple[int, int], Fault] = {}
    for place, table in enumerate(options.entries):
        where = f"faults.entries.{place}"
        entry = _read(table, where)
        fault = _fault(entry.kind, options, entry.seconds, entry.away)
        for client in entry.clients:
            if not 0 <= client < population.train:
                raise ConfigError(
                    f"{where}.clients: client {client} is not one of the {population.train} that train"
                )
            for round_ in entry.rounds:
                if not 1 <= round_ <= rounds:
                    raise ConfigError(f"{where}.rounds: round {round_} is not within 1 and {rounds}")
                if (round_, client) in named:
                    raise ConfigError(
                        f"{where}: client {client} has a fault in round {round_} already: "
                        f"'{named[round_, client].kind}'"
                    )
                named[round_, client] = fault
    return FaultPlan(options, named, seed if options.seed is None else options.seed)


def _read(table: Mapping[str, Any], where: str) -> Entry:
    entry = parse_options(Entry, table, where)
    if entry.kind not in KINDS:
        raise ConfigError(f"{where}.kind: unknown fault '{entry.kind}': {nearest(entry.kind, KINDS)}")
    if entry.seconds is not None and entry.kind != "late":
        raise ConfigError(f"{where}.seconds: only 'late' has seconds, not '{entry.kind}'")
    if entry.away is not None and entry.kind not in AWAY:
        raise ConfigError(f"{where}.away: only 'vanish' and 'move' have it, not '{entry.kind}'")
    return entry


def _fault(kind: str, options: FaultOptions, seconds: float | None, away: int | None) -> Fault:
    if kind == "late":
        return Fault(kind, seconds=options.seconds if seconds is None else seconds)
    return Fault(kind, away=(away or options.away) if kind in AWAY else 0)
