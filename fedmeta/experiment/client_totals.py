"""Totals of ``clients.jsonl``: outcomes, reasons, contributions and earnings."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.recorder import ERRORS
from fedmeta.experiment.rows import CLIENTS, ClientRow, kind
from fedmeta.federation.refusal import Fault, Outcome, RefusalCode
from fedmeta.files import read_lines

COUNTS: tuple[Outcome, ...] = ("admitted", "quarantined", "late", "lost", "surplus")
LISTED = 20
"""Reasons to list; all of them are in ``clients.jsonl``."""
REFUSED_NODES = "refused_nodes"
"""Key of ``run.json`` and of the totals: a line about each node that was refused."""
MOST_REFUSED = 100
"""Limit of these lines, so that nodes that keep joining under new ids cannot fill the disk."""

_REFUSED = b'"admitted": false'


@dataclass
class _Reason:
    """One kind of reason, with the first row found as an example."""

    outcome: str
    kind: str
    example: ClientRow
    last_round: int = 0
    count: int = 0
    clients: set[int] = field(default_factory=set)
    norms: list[float] = field(default_factory=list)

    def add(self, row: ClientRow) -> None:
        self.count += 1
        self.clients.add(row["client"])
        self.last_round = row["round"]
        if (norm := row.get("norm")) is not None:
            self.norms = [min([norm, *self.norms]), max([norm, *self.norms])]

    @property
    def code(self) -> RefusalCode:
        return self.example["code"] or RefusalCode.UNKNOWN

    @property
    def said(self) -> str:
        row = self.example
        return f"{row['reason']} (client {row['client']}, round {row['round']})"

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "reason": self.kind,
            "count": self.count,
            "clients": len(self.clients),
            "first_round": self.example["round"],
            "last_round": self.last_round,
            "example": self.example["reason"],
            "example_client": self.example["client"],
            "example_round": self.example["round"],
            "norms": self.norms or None,
        }


def replies(folder: RunFolder) -> dict[str, Any] | None:
    """Count the outcomes of a run's replies.

    Returns:
        ``asked``, the sum over rounds of the clients that were asked; their number by outcome;
        ``skipped`` rounds; and ``reasons``, the most frequent first: outcome, reason without its values,
        count, number of clients, the first and last round, an example with its values, client and round,
        and the smallest and largest norm of such replies. ``refused_nodes``, if there were any: a line
        about each. None for a run without messages.

    Raises:
        UsageError: If a log is damaged.
    """
    rows = folder.metrics()
    if not any(row["bytes_down"] for row in rows):
        return None
    nodes = folder.info.get(REFUSED_NODES)
    counts: dict[str, int] = {name: sum(row.get(name, 0) for row in rows) for name in COUNTS}
    return {
        "asked": sum(row["cohort"] for row in rows),
        **counts,
        "skipped": sum(row["skipped"] for row in rows),
        "reasons": [reason.to_json() for reason in _reasons(_refused(folder))[:LISTED]],
        **({REFUSED_NODES: nodes} if nodes else {}),
    }


def note_refused(folder: RunFolder, line: str) -> None:
    """Record that a node was refused, without repeating a line."""
    known = folder.info.get(REFUSED_NODES, [])
    if line not in known and len(known) < MOST_REFUSED:
        folder.update_info({REFUSED_NODES: [*known, line]})


def why_untrained(folder: RunFolder, quorum: int) -> str | None:
    """Return why a finished run did not learn; None if it did.

    Args:
        folder: The run's folder.
        quorum: How many replies a round needed.

    Returns:
        A message with the most frequent reason if more than half of the rounds were skipped; else None.

    Raises:
        UsageError: If a log is damaged.
    """
    rows = folder.metrics()
    skipped = {row["round"] for row in rows if row["skipped"]}
    if 2 * len(skipped) <= len(rows):
        return None
    if any(row["admitted"] for row in rows):
        few = f"with fewer than {quorum} replies admitted"
        what = f"{len(skipped)} of {len(rows)} rounds were skipped, {few}"
    else:
        what = f"no reply was admitted, so all {len(rows)} rounds were skipped"
    at_fault = [
        reason for reason in _reasons(_refused(folder, skipped)) if reason.code.fault is not Fault.NOBODY
    ]
    if not at_fault:
        return f"the run did not learn: {what}"
    first, total = at_fault[0], sum(reason.count for reason in at_fault)
    hint = traceback_hint(folder) if first.code is RefusalCode.CLIENT_ERROR else ""
    why = f"{first.count} of {total} times the reason was: {first.said}"
    return f"the run did not learn: {what}; {why}{hint}"


def traceback_hint(folder: RunFolder) -> str:
    """Return the end of a message, which says where the clients' tracebacks are."""
    path = folder.path / ERRORS
    # On Flower's own engines, tracebacks stay in the client's process: none crosses the grid.
    where = path if path.exists() else "the log of the client's own process"
    return f"; the traceback is in {where}"


def _reasons(refused: Iterable[ClientRow]) -> list[_Reason]:
    found: dict[tuple[str, str], _Reason] = {}
    for row in refused:
        key = (row.get("outcome", "quarantined"), kind(row))
        found.setdefault(key, _Reason(*key, row)).add(row)
    return sorted(found.values(), key=lambda one: (-one.count, one.outcome, one.kind))


def _refused(folder: RunFolder, rounds: Container[int] | None = None) -> Iterator[ClientRow]:
    # Most lines are of admitted clients; only the others are parsed.
    for line in read_lines(folder.path / CLIENTS.name):
        if _REFUSED in line:
            row = CLIENTS.parse(line)
            if rounds is None or row["round"] in rounds:
                yield row


UNITS = 10**6
"""Token units in a token."""


@dataclass(frozen=True)
class ClientTotals:
    """One client's totals over a run.

    Attributes:
        client: Partition id.
        account: Its address; None without a chain.
        rounds: Rounds in which it was asked.
        admitted: Rounds in which its update was aggregated.
        tasks: Training tasks in those rounds.
        score: Mean score of its admitted updates; None if none was scored.
        earned: Token units awarded.
        refused: First example of the most frequent reason why an update was not admitted; None if all
            were.
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

    def add(self, row: ClientRow) -> None:
        self.rounds += 1
        self.tasks += row["tasks"]
        if not row["admitted"]:
            # Reasons are counted by kind, as values such as norms always differ.
            why = kind(row)
            self.reasons[why] += 1
            self.examples.setdefault(why, str(row["reason"]))
            return
        self.admitted += 1
        self.account = self.account or row.get("account")
        if (score := row.get("score")) is not None:
            self.scored += 1
            self.score += score
        self.earned += row.get("reward") or 0


def participants(rows: Iterable[ClientRow]) -> tuple[ClientTotals, ...]:
    """Sum the rows of ``clients.jsonl`` by client, sorted by earnings."""
    tallies: dict[int, _Tally] = {}
    for row in rows:
        tallies.setdefault(row["client"], _Tally()).add(row)
    found = [
        ClientTotals(
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
