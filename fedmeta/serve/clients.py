"""A run's clients one by one, added up from ``clients.jsonl`` while it grows."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmeta.experiment.client_totals import UNITS
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.rows import CLIENTS, ClientRow, kind, later_format, measures_of
from fedmeta.report.read import MOST_PARSED, number
from fedmeta.report.sections.refusals import example
from fedmeta.serve.log import Log
from fedmeta.tasks.measure import LOSS

_LATEST = 200
MOST_CLIENTS = 10_000
"""Clients that are listed one by one: as many as a browser can show."""
_KINDS = 100
_LONGEST = 1000
_OPTIONAL = ("score", "reward", "account")
_OTHER = "other reasons"


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class _Tally:
    asked: int = 0
    admitted: int = 0
    tasks: int = 0
    measures: dict[str, _Mean] = field(default_factory=dict)
    score: _Mean = field(default_factory=_Mean)
    reward: int = 0
    account: str | None = None
    reasons: Counter[str] = field(default_factory=Counter)

    def admit(self, row: ClientRow, measures: Iterable[str]) -> None:
        self.admitted += 1
        self.tasks += int(number(row, "tasks") or 0)
        for name in measures:
            self.measures.setdefault(name, _Mean()).add(number(row, name))
        self.score.add(number(row, "score"))
        self.reward += int(number(row, "reward") or 0)
        self.account = self.account or (str(row["account"]) if row.get("account") else None)


class Clients:
    """What each client of a run did so far, and whose updates were refused.

    Args:
        path: The run's folder.
    """

    def __init__(self, path: Path) -> None:
        self._folder = RunFolder(path)
        self._restart()
        self.log = Log(path, CLIENTS, self._restart, self._add, MOST_PARSED)

    def _restart(self) -> None:
        self._tallies: dict[int, _Tally] = {}
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, ClientRow] = {}
        self._latest: deque[ClientRow] = deque(maxlen=_LATEST)
        self._columns: set[str] = set()
        self._measures = list(measures_of(self._folder.info))
        self._left_out = False
        self._others = _Tally()
        self._updates = 0

    def _add(self, row: ClientRow) -> None:
        self._updates += 1
        tally = self._tallies.get(row["client"])
        if tally is None:
            if len(self._tallies) < MOST_CLIENTS:
                tally = self._tallies[row["client"]] = _Tally()
            else:
                # Their replies are counted, together.
                tally, self._left_out = self._others, True
        for key in (*_OPTIONAL, *self._measures):
            if row.get(key):
                self._columns.add(key)
        tally.asked += 1
        if row.get("admitted") is True:
            tally.admit(row, self._measures)
            return
        why = kind(row)
        # A client names the type of the exception that it failed with: their number has no other bound.
        why = why if why in self._kinds or len(self._kinds) < _KINDS else _OTHER
        tally.reasons[why] += 1
        self._kinds[why] += 1
        # A row may be a megabyte long.
        short = ClientRow(client=row["client"])
        if (round_ := number(row, "round")) is not None:
            short["round"] = int(round_)
        short["reason"] = None if row.get("reason") is None else str(row["reason"])[:_LONGEST]
        self._examples.setdefault(why, short)
        self._latest.append(short)

    def view(self) -> dict[str, Any]:
        """Return the table of clients and the quarantine log, as of now."""
        problem = later_format(self._folder.info)
        if problem is None:
            self.log.follow()
        return {
            "problem": problem or self.log.problem or self._too_many(),
            "columns": sorted(self._columns),
            "measures": [LOSS, *(m for m in self._measures if m in self._columns and m != LOSS)],
            "clients": [self._client(one, self._tallies[one]) for one in sorted(self._tallies)],
            "updates": self._updates,
            "refused": sum(self._kinds.values()),
            "reasons": [
                {"reason": why, "updates": n, "example": example(self._examples[why])}
                for why, n in self._kinds.most_common()
            ],
            "latest": [
                {
                    "round": number(row, "round"),
                    "client": row["client"],
                    "reason": str(row.get("reason")),
                }
                for row in reversed(self._latest)
            ],
        }

    def _too_many(self) -> str | None:
        if not self._left_out:
            return None
        return f"clients.jsonl names more clients than the {MOST_CLIENTS:,} that are listed"

    def _client(self, client: int, tally: _Tally) -> dict[str, Any]:
        return {
            "client": client,
            "asked": tally.asked,
            "admitted": tally.admitted,
            "refused": tally.asked - tally.admitted,
            "tasks": tally.tasks,
            "measures": {name: mean.value for name, mean in tally.measures.items()},
            "score": tally.score.value,
            "tokens": tally.reward / UNITS,
            "account": tally.account,
            "reasons": [{"reason": why, "updates": n} for why, n in tally.reasons.most_common(5)],
        }
