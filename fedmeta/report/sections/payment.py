"""Clients: contributions, and rewards by client and round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from typing_extensions import override

from fedmeta.config import Config
from fedmeta.experiment.client_totals import UNITS
from fedmeta.report.charts import LIMIT, Chart, Heatmap, Series
from fedmeta.report.client_log import ClientLog, Flags, Floats, Integers
from fedmeta.report.page import Figure, Section
from fedmeta.report.read import RunFiles
from fedmeta.report.sections import ReportSection
from fedmeta.report.tables import Cell, LongRows, Table, shown

MOST_DRAWN = 200
"""Clients in a chart; more could not be distinguished."""
_MOST_COLUMNS = 100
_NAMED = 4
_GREY = 6


class Payment(ReportSection):
    """What clients contributed, and with an incentive rule what they earned."""

    order = 90

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        paid = paid_rows(run.clients)
        if paid is None:
            everyone = _among(run.clients, np.ones(len(run.clients), dtype=bool))
            tables = [clients_table(everyone, run.config)] if everyone else []
            return Section(key="clients", title="Clients", tables=tables) if tables else None
        rule = f" by the rule “{run.config.incentives.rule}”" if run.config else ""
        return Section(
            key="rewards",
            title="Contributions and rewards",
            text=f"{shown(float(paid.tokens.sum()))} tokens were awarded{rule}.",
            figures=payment_figures(paid, run.config),
            tables=[clients_table(paid, run.config)],
            files=[partial(rounds_table, paid)],
        )


@dataclass(frozen=True)
class Paid:
    """Rows of ``clients.jsonl`` by client; with an incentive rule, those that say what was paid.

    Attributes:
        log: The whole log.
        rows: Places of these rows in it.
        clients: Ids, rising.
        place: Whose each row is: a place in `clients`.
    """

    log: ClientLog
    rows: Integers
    clients: Integers
    place: Integers

    def by_client(self, values: Floats | Flags | Integers, among: Flags | None = None) -> Floats:
        """Return the sum by client of a value of each row, in the order of the log.

        Args:
            values: Of each row; NaN counts as zero.
            among: Rows that count; None: all.
        """
        kept = np.where(among, values, 0) if among is not None else values
        return np.bincount(self.place, np.nan_to_num(kept), len(self.clients)).astype(np.float64)

    @property
    def tokens(self) -> Floats:
        """Tokens of each row."""
        return np.nan_to_num(self.log.reward[self.rows]) / UNITS


def paid_rows(log: ClientLog) -> Paid | None:
    """Return the rows of ``clients.jsonl`` that say what was paid; None where nothing is."""
    return _among(log, log.paid)


def _among(log: ClientLog, which: Flags) -> Paid | None:
    rows = np.flatnonzero(which)
    clients, place = np.unique(log.client[rows], return_inverse=True)
    return Paid(log, rows, clients, place) if len(rows) else None


def clients_table(paid: Paid, config: Config | None) -> Table:
    """Return what each client contributed and earned; those that earned most come first."""
    log, kinds = paid.log, kinds_of(config)
    earned = bool(log.paid[paid.rows].any())
    admitted = log.admitted[paid.rows]
    scores, rewards = log.score[paid.rows], log.reward[paid.rows]
    tokens = paid.by_client(rewards, admitted) / UNITS
    columns: dict[str, Floats | Integers] = {
        "tokens": tokens,
        "mean score": _ratio(
            paid.by_client(scores, admitted), paid.by_client(~np.isnan(scores), admitted)
        ),
        "rounds asked": np.bincount(paid.place),
        "rounds admitted": paid.by_client(admitted).astype(np.int64),
        "tasks": paid.by_client(np.maximum(log.tasks[paid.rows], 0)).astype(np.int64),
    }
    order = np.lexsort((paid.clients, -columns["tasks"], -tokens))
    if not earned:
        order = np.argsort(paid.clients)
        del columns["tokens"], columns["mean score"]
    texts: dict[str, Mapping[int, str]] = {
        "behaviour": {one: kinds[one] for one in paid.clients.tolist() if one in kinds} if kinds else {},
        "refused": _refusals(paid),
        "account": log.accounts,
    }
    texts = {name: found for name, found in texts.items() if any(found.values())}
    names = ("client", "behaviour", *columns, "refused", "account")
    used = [name for name in names if name == "client" or name in columns or name in texts]

    def make(first: int, end: int) -> list[tuple[Cell, ...]]:
        at = order[first:end]
        clients = paid.clients[at].tolist()
        cells: dict[str, Sequence[Cell]] = {"client": clients}
        cells |= {name: _cells(column[at]) for name, column in columns.items()}
        cells |= {name: [found.get(one, "") for one in clients] for name, found in texts.items()}
        return list(zip(*(cells[name] for name in used), strict=True))

    rows = LongRows(len(order), make, numbers=not texts)
    if not earned:
        return Table("clients", "Contributions by client", used, rows)
    note = "The score is the mean over the client's admitted updates, by the run's incentive rule."
    return Table("earnings", "Contributions and rewards by client", used, rows, note)


def _cells(values: Floats | Integers) -> list[int | float | None]:
    """Return values as cells; NaN is none."""
    found: list[int | float] = values.tolist()
    if not np.isnan(values).any():
        return list(found)
    return [None if value != value else value for value in found]


def _ratio(sums: Floats, counts: Floats) -> Floats:
    found: Floats = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return found


def _refusals(paid: Paid) -> dict[int, str]:
    """Return how often each client was refused, with the first example of the most frequent reason."""
    log = paid.log
    at = np.flatnonzero(np.isin(log.refused, paid.rows))
    if not len(at):
        return {}
    whose = np.searchsorted(paid.clients, log.client[log.refused[at]])
    pairs, first, counts = np.unique(
        whose * len(log.kinds) + log.refused_kind[at], return_index=True, return_counts=True
    )
    order = np.lexsort((first, -counts, pairs // len(log.kinds)))
    places, starts = np.unique(pairs[order] // len(log.kinds), return_index=True)
    totals, examples = np.add.reduceat(counts[order], starts), at[first[order][starts]]
    rows = zip(paid.clients[places].tolist(), totals.tolist(), examples.tolist(), strict=True)
    return {client: f"{total}: {log.said[example]}" for client, total, example in rows}


def kinds_of(config: Config | None) -> dict[int, str]:
    """Return the behaviour of each client that the config gives one."""
    found: dict[int, str] = {}
    for behaviour in config.behaviours if config else []:
        clients = behaviour.get("clients")
        for client in clients if isinstance(clients, list) else []:
            found[client] = str(behaviour.get("kind", ""))
    return found


def rounds_table(paid: Paid) -> Table:
    """Return every client's tasks, score and reward in every round, for the CSV file."""
    columns = ["round", "client", "admitted", "tasks", "score", "reward_tokens"]
    log = paid.log

    def make(first: int, end: int) -> list[tuple[Cell, ...]]:
        at = paid.rows[first:end]
        admitted, tokens = log.admitted[at].astype(int), log.reward[at] / UNITS
        found = (log.round[at], log.client[at], admitted, log.tasks[at], log.score[at], tokens)
        return list(zip(*map(_cells, found), strict=True))

    return Table(
        "contributions",
        "Contributions by client and round",
        columns,
        LongRows(len(paid.rows), make, numbers=True),
    )


def payment_figures(paid: Paid, config: Config | None) -> list[Figure]:
    """Return rewards by client over the rounds, and scores by client and round."""
    figures: list[Figure] = []
    order = np.lexsort((paid.clients, -paid.by_client(paid.tokens)))
    chart = _earned(paid, order, kinds_of(config))
    if not chart.empty:
        figures.append(Figure(chart))
    scores = _scores(paid, order, kinds_of(config))
    if scores is not None:
        figures.append(Figure(scores))
    return figures


def _name(client: int, kinds: Mapping[int, str]) -> str:
    return f"client {client}, {kinds[client]}" if kinds.get(client) else f"client {client}"


def _earned(paid: Paid, order: Integers, kinds: Mapping[int, str]) -> Chart:
    """Draw tokens so far; of many clients those who earn most and least have names and colours."""
    chart = Chart("rewards", "Rewards by client, summed over the rounds", "round", "tokens", [])
    if not paid.tokens.any():
        return chart
    rounds = _drawn_rounds(paid.log.round[paid.rows])
    count = len(order)
    if count > 1 and _alike(paid):
        # One line for all: the last one drawn would hide the others.
        values = _so_far(paid, order[:1], rounds)[0]
        return replace(chart, series=[Series(f"each of {count} clients", rounds.tolist(), values)])
    few = count <= 2 * _NAMED
    drawn = _drawn(order)
    so_far = dict(zip(paid.clients[drawn].tolist(), _so_far(paid, drawn, rounds), strict=True))
    clients = list(so_far)
    named = clients if few else [*clients[:_NAMED], *clients[-_NAMED:]]
    # The others come first, so that they lie behind.
    others = [
        Series(_name(client, kinds), rounds.tolist(), so_far[client], colour=_GREY, faint=True)
        for client in clients
        if client not in named
    ]
    front = [
        Series(_name(client, kinds), rounds.tolist(), so_far[client], colour=place, dash=place)
        for place, client in enumerate(named)
    ]
    note = f"Named: the {_NAMED} clients that earned most and the {_NAMED} that earned least."
    if count > len(drawn):
        most = len(drawn) - _NAMED
        note += f" Drawn: these and the others among the {most} that earned most, of {count:,} clients."
    return replace(chart, series=[*others, *front], note="" if few else note)


def _drawn(order: Integers) -> Integers:
    """Return the clients that are drawn, of all of them ordered by what they earned."""
    if len(order) <= MOST_DRAWN:
        return order
    return np.concatenate((order[: MOST_DRAWN - _NAMED], order[-_NAMED:]))


def _drawn_rounds(rounds: Integers) -> Integers:
    """Return the rounds that curves have points at: all, or many at equal distances and the last."""
    found = np.unique(rounds)
    if len(found) <= LIMIT:
        return found
    return np.asarray(found[np.linspace(0, len(found) - 1, LIMIT).astype(np.int64)])


def _alike(paid: Paid) -> bool:
    """Tell whether all clients earned the same in every round."""
    at = np.flatnonzero(paid.tokens)
    each, rest = divmod(len(at), len(paid.clients))
    if rest:
        return False
    round_ = paid.log.round[paid.rows[at]]
    order = np.lexsort((round_, paid.place[at]))
    columns = (round_[order], paid.tokens[at][order])
    # If one client has more or fewer payments, the columns no longer line up.
    tables = (paid.place[at][order], *columns)
    whose, *same = (column.reshape(len(paid.clients), each) for column in tables)
    mine = bool((whose == np.arange(len(paid.clients))[:, None]).all())
    return mine and all(bool((column == column[0]).all()) for column in same)


def _so_far(paid: Paid, some: Integers, rounds: Integers) -> list[Sequence[float]]:
    """Return the tokens of some clients, summed up to each of some rounds of which the last is one."""
    line = np.full(len(paid.clients), -1)
    line[some] = np.arange(len(some))
    at = np.flatnonzero(line[paid.place] >= 0)
    column = np.searchsorted(rounds, paid.log.round[paid.rows[at]])
    cell = line[paid.place[at]] * len(rounds) + column
    sums = np.bincount(cell, paid.tokens[at], len(some) * len(rounds)).reshape(len(some), -1)
    found: list[Sequence[float]] = sums.cumsum(axis=1).tolist()
    return found


def _scores(paid: Paid, order: Integers, kinds: Mapping[int, str]) -> Heatmap | None:
    scores = paid.log.score[paid.rows]
    if len(np.unique(scores[~np.isnan(scores)])) < 2:
        return None
    rounds = paid.log.round[paid.rows]
    last = max(int(rounds.max()), 1)
    width = -(-last // _MOST_COLUMNS)
    bins = -(-last // width)
    drawn = np.sort(_drawn(order))
    line = np.full(len(paid.clients), -1)
    line[drawn] = np.arange(len(drawn))
    at = np.flatnonzero((line[paid.place] >= 0) & (rounds > 0) & ~np.isnan(scores))
    cell = line[paid.place[at]] * bins + (rounds[at] - 1) // width
    size = len(drawn) * bins
    counts = np.bincount(cell, minlength=size).astype(np.float64)
    means = _ratio(np.bincount(cell, scores[at], size).astype(np.float64), counts)
    notes = [f"Each column is the mean over {width} rounds."] if width > 1 else []
    notes.append("Empty where the client was not asked or not admitted.")
    if len(drawn) < len(order):
        notes.append(f"Drawn: the {len(drawn)} clients of the rewards chart, of {len(order):,}.")
    return Heatmap(
        key="scores",
        title="Contribution scores by client and round",
        x="round",
        y="client",
        columns=[first * width + (1 + width) / 2 for first in range(bins)],
        rows=[_name(client, kinds) for client in paid.clients[drawn].tolist()],
        values=[_cells(row) for row in means.reshape(len(drawn), bins)],
        unit="score",
        note=" ".join(notes),
    )
