"""Refused updates by reason, client and round."""

import numpy as np
from typing_extensions import override

from fedmeta.report.charts import PALETTE, Chart, Series
from fedmeta.report.client_log import ClientLog, Integers
from fedmeta.report.page import Figure, Section
from fedmeta.report.read import RunFiles
from fedmeta.report.sections import ReportSection
from fedmeta.report.tables import Cell, LongRows, Table

_BINS = 60
_DRAWN = len(PALETTE)


class Refusals(ReportSection):
    """Refused updates."""

    order = 80

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        log = run.clients
        if not len(log):
            return None
        skipped = sum(row.get("skipped") is True for row in run.metrics)
        text = f"{len(log.refused):,} of {len(log):,} updates were refused."
        if skipped:
            text += f" {skipped:,} rounds were skipped because too few updates were admitted."
        if not log.kinds:
            return Section(key="quarantine", title="Quarantine", text=text)
        return Section(
            key="quarantine",
            title="Quarantine",
            text=text,
            figures=[Figure(chart) for chart in chart(log)],
            tables=[reasons_table(log), clients_table(log)],
        )


def reasons_table(log: ClientLog) -> Table:
    """Return how often each reason came up, and for how many clients."""
    rows: list[list[Cell]] = []
    for kind in _by_frequency(log):
        at = np.flatnonzero(log.refused_kind == kind)
        where = log.refused[at]
        client, round_ = int(log.client[where[0]]), int(log.round[where[0]])
        said = f"{log.said[at[0]]} (client {client}, round {round_})"
        clients = len(np.unique(log.client[where]))
        rows.append([log.kinds[kind], len(at), clients, ranges(log.round[where]), said])
    columns = ["reason", "updates", "clients", "rounds", "for example"]
    return Table("quarantine-reasons", "Refused updates by reason", columns, rows, shown=15)


def _by_frequency(log: ClientLog) -> list[int]:
    """Return the kinds of refusals, the most frequent first."""
    found: list[int] = np.argsort(-_totals(log), kind="stable").tolist()
    return found


def _totals(log: ClientLog) -> Integers:
    return np.bincount(log.refused_kind, minlength=len(log.kinds))


def clients_table(log: ClientLog) -> Table:
    """Return how often each client was refused, for each reason."""
    client, round_ = log.client[log.refused], log.round[log.refused]
    # Ties are broken by the name of the reason.
    name = np.argsort(np.argsort(np.array(log.kinds)))[log.refused_kind]
    order = np.lexsort((name, client))
    changes = (np.diff(client[order]) != 0) | (np.diff(name[order]) != 0)
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    counts = np.diff(starts, append=len(order))
    first = np.argsort(-counts, kind="stable")

    def make(start: int, end: int) -> list[list[Cell]]:
        rows: list[list[Cell]] = []
        for group in first[start:end].tolist():
            some = order[starts[group] : starts[group] + counts[group]]
            kind = log.kinds[log.refused_kind[some[0]]]
            rows.append([int(client[some[0]]), kind, len(some), ranges(round_[some])])
        return rows

    columns = ["client", "reason", "updates", "rounds"]
    title = "Refused updates by client"
    return Table("quarantine-clients", title, columns, LongRows(len(first), make), shown=15)


def chart(log: ClientLog) -> list[Chart]:
    """Return how many updates were refused over the rounds, by reason."""
    if not log.kinds:
        return []
    last = max(int(log.round.max()), 1)
    width = -(-last // _BINS)
    bins = -(-last // width)
    order = _by_frequency(log)
    where = [first * width + (1 + width) / 2 for first in range(bins)]
    place = np.maximum(log.round[log.refused] - 1, 0) // width
    return [
        Chart(
            key="quarantine",
            title="Refused updates over the rounds",
            x="round" if width == 1 else f"round, {width} to a bar",
            y="refused updates",
            series=[
                Series(
                    log.kinds[kind],
                    where,
                    np.bincount(place[log.refused_kind == kind], minlength=bins).tolist(),
                    mark="bars",
                    colour=colour,
                )
                for colour, kind in enumerate(order[:_DRAWN])
            ],
            note=""
            if len(order) <= _DRAWN
            else f"The {_DRAWN} most frequent reasons; the table has all.",
        )
    ]


def ranges(rounds: Integers, most: int = 12) -> str:
    """Return rounds as ``1-4, 7``, and how many stretches more there are."""
    if len(rounds) == 1:
        return str(rounds[0])
    found = np.unique(rounds)
    breaks = np.flatnonzero(np.diff(found) > 1)
    firsts = found[np.concatenate(([0], breaks + 1))]
    lasts = found[np.concatenate((breaks, [len(found) - 1]))]
    stretches = zip(firsts[:most].tolist(), lasts[:most].tolist(), strict=True)
    texts = [str(first) if first == last else f"{first}–{last}" for first, last in stretches]
    more = f" and {len(firsts) - most} more stretches" if len(firsts) > most else ""
    return ", ".join(texts) + more
