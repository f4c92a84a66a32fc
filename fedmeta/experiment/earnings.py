"""Who contributed to a run and what each was awarded, from ``clients.jsonl`` alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedmeta.experiment.replies import kind_of

UNITS = 10**6
"""Token units in a token."""


@dataclass(frozen=True)
class Participant:
    """One client's part in a whole run.

    Attributes:
        client: Partition id.
        account: Its address; None without a chain.
        rounds: Rounds in which it was asked.
        admitted: Rounds in which its update was aggregated.
        tasks: Training tasks behind those.
        score: Mean score of its admitted updates; None if none was scored.
        earned: Token units awarded.
        refused: The most frequent kind of reason why an update was not admitted, by its first example;
            None if all were.
    """

    client: int
    account: str | None
    rounds: int
    admitted: int
    tasks: int
    score: float | None
    earned: int
    refused: str | None


@dataclass
class _Tally:
    account: str | None = None
    rounds: int = 0
    admitted: int = 0
    tasks: int = 0
    scored: int = 0
    score: float = 0.0
    earned: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        self.rounds += 1
        self.tasks += row["tasks"]
        if not row["admitted"]:
            # Each norm is another one: reasons are counted by kind.
            kind = kind_of(row["reason"])
            self.reasons[kind] += 1
            self.examples.setdefault(kind, row["reason"])
            return
        self.admitted += 1
        self.account = self.account or row.get("account")
        if row.get("score") is not None:
            self.scored += 1
            self.score += row["score"]
        self.earned += row.get("reward") or 0


def participants(rows: Iterable[Mapping[str, Any]]) -> tuple[Participant, ...]:
    """Add up the rows of ``clients.jsonl``, by client; those who earned most come first."""
    tallies: dict[int, _Tally] = {}
    for row in rows:
        tallies.setdefault(row["client"], _Tally()).add(row)
    found = [
        Participant(
            client=client,
            account=tally.account,
            rounds=tally.rounds,
            admitted=tally.admitted,
            tasks=tally.tasks,
            score=tally.score / tally.scored if tally.scored else None,
            earned=tally.earned,
            refused=tally.examples[tally.reasons.most_common(1)[0][0]] if tally.reasons else None,
        )
        for client, tally in tallies.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.earned, -one.tasks, one.client)))
