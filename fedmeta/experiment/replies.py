"""What became of everything that clients were asked for: the list at the end of a run."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fedmeta.experiment.folder import RunFolder

COUNTS = ("admitted", "quarantined", "late", "lost", "surplus")
LISTED = 20
"""Reasons in the list; the rest is counted together."""

_REFUSED = b'"admitted": false'
_VALUES = re.compile(r"'[^']*'|-?\b\d[\w.+-]*")


def replies(folder: RunFolder) -> dict[str, Any] | None:
    """Add up what became of the replies of a run.

    Returns:
        ``asked``, the sum over rounds of the clients that were asked; by outcome how many of them;
        ``skipped`` rounds; and ``reasons``, a list of outcome, reason, count, clients (how many) and the
        first and last round, the most frequent first. None for a run without messages.

    Raises:
        UsageError: If a log is damaged.
    """
    rows = folder.metrics()
    if not any(row["bytes_down"] for row in rows):
        return None
    counts = {name: sum(row.get(name, 0) for row in rows) for name in COUNTS}
    return {
        "asked": sum(row["cohort"] for row in rows),
        **counts,
        "skipped": sum(row["skipped"] for row in rows),
        "reasons": _reasons(folder),
    }


def _reasons(folder: RunFolder) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str]] = Counter()
    clients: dict[tuple[str, str], set[int]] = {}
    rounds: dict[tuple[str, str], tuple[int, int]] = {}
    for row in _refused(folder):
        # What differs from client to client, such as a norm, would make each reason one of its own.
        kind = (row.get("outcome", "quarantined"), _VALUES.sub("…", row["reason"]))
        counts[kind] += 1
        clients.setdefault(kind, set()).add(row["client"])
        first, last = rounds.get(kind, (row["round"], row["round"]))
        rounds[kind] = (min(first, row["round"]), max(last, row["round"]))
    return [
        {
            "outcome": kind[0],
            "reason": kind[1],
            "count": count,
            "clients": len(clients[kind]),
            "first_round": rounds[kind][0],
            "last_round": rounds[kind][1],
        }
        for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
    ]


def _refused(folder: RunFolder) -> Iterator[dict[str, Any]]:
    # Most lines are of admitted clients; only the others are parsed.
    with (folder.path / "clients.jsonl").open("rb") as log:
        for line in log:
            if _REFUSED in line:
                yield json.loads(line)
