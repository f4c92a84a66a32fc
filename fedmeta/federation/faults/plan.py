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
    "crash-after": "raises after it trains, before it replies",
    "late": "replies `seconds` after the request",
    "twice": "its reply arrives twice",
    "old-round": "answers for the round before",
    "vanish": "is absent for `away` rounds",
    "move": "is absent for `away` rounds, and comes back with another node id",
    "wrong-keys": "replies with an unknown key",
    "wrong-shapes": "replies with an array of another shape",
    "wrong-dtypes": "replies with an array of another dtype",
    "nan": "replies with a NaN",
    "huge-tasks": "claims a billion tasks",
    "garbage": "replies with random bytes as arrays",
    "no-records": "replies without any record",
}
"""Kinds of faults, and what a client does in a round with that fault."""

AWAY = ("vanish", "move")
"""Kinds that make a client absent for some rounds."""


class FaultOptions(Options):
    """The faults of a run.

    Attributes:
        seed: Seed of randomly drawn faults; None: the run's seed.
        rates: Probability of each kind, per client and round in which it is asked.
        seconds: Mean delay of randomly drawn late replies; delays follow an exponential distribution.
        away: Rounds that a client is absent after a randomly drawn ``vanish`` or ``move``.
        entries: Explicit faults: tables of kind, clients, rounds and, by kind, seconds or away.
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
        """The kinds of fault that can occur."""
        drawn = {kind for kind, rate in self.rates.items() if rate}
        return drawn | {str(entry.get("kind")) for entry in self.entries}

    @field_validator("rates")
    @classmethod
    def _are_chances(cls, rates: dict[str, float]) -> dict[str, float]:
        for kind, rate in rates.items():
            if kind not in KINDS:
                raise ConfigError(f"faults.rates: unknown fault '{kind}': {nearest(kind, KINDS)}")
            if not 0.0 <= rate <= 1.0:
                raise ConfigError(f"faults.rates.{kind}: must be between 0 and 1 (got {rate:g})")
        if sum(rates.values()) > 1.0 + 1e-9:
            total = sum(rates.values())
            raise ConfigError(
                f"faults.rates: must sum to at most 1, as a client meets one fault at a time "
                f"(got {total:g})"
            )
        return rates


class Entry(Options):
    """One of ``[[faults.entries]]``.

    Attributes:
        kind: The kind of fault.
        clients: Partition ids of the training clients that meet it.
        rounds: The rounds in which they do.
        seconds: Delay of a late reply; None: that of the plan.
        away: Rounds that a client is absent; None: that of the plan.
    """

    kind: str
    clients: list[int]
    rounds: list[int]
    seconds: float | None = Field(None, gt=0)
    away: int | None = Field(None, ge=1, le=1000)


@dataclass(frozen=True)
class Fault:
    """A client's fault in a round.

    Attributes:
        kind: One of `KINDS`.
        seconds: Delay of a late reply.
        away: Rounds that it is absent, including the one in which the fault begins.
    """

    kind: str
    seconds: float = 0.0
    away: int = 0


@dataclass
class _Stay:
    """A client's state in a round: its fault, until when it is absent, how often it has moved."""

    round: int = 0
    fault: Fault | None = None
    until: int = 0
    moves: int = 0

    def advance(self, begins: Fault | None) -> None:
        """Advance to the next round, in which a fault may begin unless the client is absent."""
        self.round += 1
        if self.round <= self.until:
            return
        self.moves += self.fault is not None and self.fault.kind == "move"
        self.fault = begins
        self.until = self.round + begins.away - 1 if begins and begins.away else 0


class FaultPlan:
    """The faults of a run, as a function of round and client, so a resumed run meets the same ones.

    A client meets at most one fault at a time: none while it is absent, and an entry takes precedence
    over a random draw.

    Args:
        options: Rates and delays.
        named: The entries, by round and client.
        seed: Seed of random draws.
    """

    def __init__(self, options: FaultOptions, named: Mapping[tuple[int, int], Fault], seed: int) -> None:
        self.options = options
        self.named = dict(named)
        self.seed = seed
        # A fixed order, so that draws do not depend on the order of the file.
        self._rates = sorted((kind, rate) for kind, rate in options.rates.items() if rate)
        kinds = {kind for kind, _ in self._rates} | {fault.kind for fault in self.named.values()}
        self._anybody_leaves = not kinds.isdisjoint(AWAY)
        self._stays: dict[int, _Stay] = {}

    def due(self, round_: int, client: int) -> Fault | None:
        """Return a client's fault in a round; None if it has none."""
        if not self._anybody_leaves:
            return self._find(round_, client)
        return self._stay(round_, client).fault

    def moves(self, round_: int, client: int) -> int:
        """Return how many times a client has come back with another node id, up to a round."""
        return self._stay(round_, client).moves if self._anybody_leaves else 0

    def _stay(self, round_: int, client: int) -> "_Stay":
        """Follow a client up to a round, from the last round computed or from the start."""
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
        population: Says which clients train.
        rounds: Length of the run.
        seed: Seed of the run.

    Raises:
        ConfigError: For an unknown kind or key, a client that does not train, a round outside the run,
            or a client with two faults in a round.
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
                    raise ConfigError(f"{where}.rounds: round {round_} is not between 1 and {rounds}")
                if (round_, client) in named:
                    raise ConfigError(
                        f"{where}: client {client} already has a fault in round {round_}: "
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
