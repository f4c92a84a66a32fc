"""Refused updates: whose, why, and when."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fedmeta.experiment.rows import ClientRow, kind
from fedmeta.report.charts import PALETTE, Chart, Series
from fedmeta.report.tables import Cell, Table

_BINS = 60
_DRAWN = len(PALETTE)


Refused = Mapping[str, Sequence[ClientRow]]
"""The rows of ``clients.jsonl`` whose update was not admitted, by the kind of their reason."""


def refused(clients: Sequence[ClientRow]) -> Refused:
    """Return the rows whose update was not admitted; a log of a million rows is gone through once."""
    found: dict[str, list[ClientRow]] = defaultdict(list)
    for row in clients:
        if row.get("admitted") is False and isinstance(row.get("round"), int):
            found[kind(row)].append(row)
    return found


def reasons_table(found: Refused) -> Table:
    """Return how often each reason came up, and for whom."""
    rows: list[list[Cell]] = [
        [
            reason,
            len(rows),
            len({row["client"] for row in rows}),
            ranges([row["round"] for row in rows]),
            example(rows[0]),
        ]
        for reason, rows in sorted(found.items(), key=lambda pair: -len(pair[1]))
    ]
    columns = ["reason", "updates", "clients", "rounds", "for example"]
    return Table("quarantine-reasons", "Refused updates by reason", columns, rows, shown=15)


def example(row: ClientRow) -> str:
    """Return a reason with its values, and whose it is."""
    said = row.get("reason") or "no reason given"
    return f"{said} (client {row['client']}, round {row.get('round', '?')})"


def clients_table(found: Refused) -> Table:
    """Return how often each client was refused, for each reason."""
    order: list[tuple[int, int, str, list[int]]] = []
    for reason, refusals in found.items():
        rounds: dict[int, list[int]] = {}
        for row in refusals:
            rounds.setdefault(row["client"], []).append(row["round"])
        order += [(-len(some), client, reason, some) for client, some in rounds.items()]
    order.sort()
    rows: list[list[Cell]] = [
        [client, reason, -less, ranges(some)] for less, client, reason, some in order
    ]
    columns = ["client", "reason", "updates", "rounds"]
    return Table("quarantine-clients", "Refused updates by client", columns, rows, shown=15)


def chart(clients: Sequence[ClientRow], found: Refused) -> list[Chart]:
    """Return how many updates were refused over the rounds, by reason."""
    if not found:
        return []
    last = max(row["round"] for row in clients if isinstance(row.get("round"), int))
    width = -(-last // _BINS)
    bins = -(-last // width)
    order = sorted(found, key=lambda reason: -len(found[reason]))
    where = [first * width + (1 + width) / 2 for first in range(bins)]
    return [
        Chart(
            key="quarantine",
            title="Refused updates over the rounds",
            x="round" if width == 1 else f"round, {width} to a bar",
            y="refused updates",
            series=[
                Series(reason, where, _counts(found[reason], width, bins), mark="bars", colour=place)
                for place, reason in enumerate(order[:_DRAWN])
            ],
            note=""
            if len(order) <= _DRAWN
            else f"The {_DRAWN} most frequent reasons; the table has all.",
        )
    ]


def _counts(rows: Sequence[ClientRow], width: int, bins: int) -> list[int]:
    """Return how many rows are of each `width` rounds."""
    counts = [0] * bins
    for row in rows:
        counts[(row["round"] - 1) // width] += 1
    return counts


def ranges(rounds: Sequence[int], most: int = 12) -> str:
    """Return rounds as ``1-4, 7``, and how many stretches more there are."""
    if len(rounds) == 1:
        return str(rounds[0])
    stretches: list[list[int]] = []
    for round_ in sorted(set(rounds)):
        if stretches and stretches[-1][1] == round_ - 1:
            stretches[-1][1] = round_
        else:
            stretches.append([round_, round_])
    texts = [str(first) if first == last else f"{first}–{last}" for first, last in stretches[:most]]
    more = f" and {len(stretches) - most} more stretches" if len(stretches) > most else ""
    return ", ".join(texts) + more
