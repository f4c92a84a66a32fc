"""Contributions and rewards by client and round."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from fedmeta.config import Config
from fedmeta.experiment.client_totals import UNITS, participants
from fedmeta.experiment.rows import ClientRow
from fedmeta.report.charts import Chart, Heatmap, Series
from fedmeta.report.page import Figure
from fedmeta.report.read import RunFiles, number
from fedmeta.report.tables import Cell, Table

_MOST_COLUMNS = 100
_NAMED = 4
_GREY = 6


def paid_rows(run: RunFiles) -> list[ClientRow]:
    """Return the rows of ``clients.jsonl`` that say what was paid; empty where nothing is."""
    return [_clean(row) for row in run.clients if ("reward" in row or "score" in row) and _is_whole(row)]


def _clean(row: ClientRow) -> ClientRow:
    reward = number(row, "reward")
    clean = row.copy()
    clean["score"] = number(row, "score")
    clean["reward"] = None if reward is None else int(reward)
    clean["reason"] = str(row.get("reason"))
    return clean


def _is_whole(row: Mapping[str, Any]) -> bool:
    known = all(number(row, key) is not None for key in ("round", "client", "tasks"))
    return known and isinstance(row.get("admitted"), bool)


def earnings_table(rows: Sequence[ClientRow], config: Config | None) -> Table:
    """Return who contributed and earned how much; those who earned most come first."""
    kinds = kinds_of(config)
    found: list[list[Cell]] = []
    for one in participants(rows):
        refused = one.rounds - one.admitted
        said = f"{refused}: {one.refused}" if refused else ""
        cells: list[Cell] = [one.client, kinds.get(one.client, ""), one.account or "", one.admitted]
        found.append([*cells, one.tasks, one.score, one.earned / UNITS, said])
    columns = [
        "client",
        "behaviour",
        "account",
        "rounds admitted",
        "tasks",
        "mean score",
        "tokens",
        "refused",
    ]
    used = [i for i, name in enumerate(columns) if name not in _OPTIONAL or any(row[i] for row in found)]
    return Table(
        "earnings",
        "Contributions and rewards by client",
        [columns[i] for i in used],
        [[row[i] for i in used] for row in found],
        "The score is the mean over the client's admitted updates, by the run's incentive rule.",
    )


_OPTIONAL = ("behaviour", "account", "refused")


def kinds_of(config: Config | None) -> dict[int, str]:
    """Return what the config makes each client do instead of its part; empty for those who do theirs."""
    found: dict[int, str] = {}
    for behaviour in config.behaviours if config else []:
        clients = behaviour.get("clients")
        for client in clients if isinstance(clients, list) else []:
            found[client] = str(behaviour.get("kind", ""))
    return found


def rounds_table(rows: Sequence[ClientRow]) -> Table:
    """Return every client's tasks, score and reward in every round, for the CSV file."""
    columns = ["round", "client", "admitted", "tasks", "score", "reward_tokens"]
    values: list[list[Cell]] = [
        [
            row["round"],
            row["client"],
            int(row["admitted"]),
            row["tasks"],
            number(row, "score"),
            _tokens(row),
        ]
        for row in rows
    ]
    return Table("contributions", "Contributions by client and round", columns, values)


def _tokens(row: Mapping[str, Any]) -> float | None:
    units = number(row, "reward")
    return None if units is None else units / UNITS


def payment_figures(rows: Sequence[ClientRow], config: Config | None) -> list[Figure]:
    """Return rewards by client over the rounds, and scores by client and round."""
    figures: list[Figure] = []
    chart = _earned(rows, kinds_of(config))
    if not chart.empty:
        figures.append(Figure(chart))
    scores = _scores(rows, kinds_of(config))
    if scores is not None:
        figures.append(Figure(scores))
    return figures


def _name(client: int, kinds: Mapping[int, str]) -> str:
    return f"client {client}, {kinds[client]}" if kinds.get(client) else f"client {client}"


def _earned(rows: Sequence[ClientRow], kinds: Mapping[int, str]) -> Chart:
    """Draw tokens so far; of many clients those who earn most and least have names and colours."""
    paid: dict[int, dict[int, float]] = {}
    for row in rows:
        paid.setdefault(row["client"], {})[row["round"]] = _tokens(row) or 0.0
    rounds = sorted({row["round"] for row in rows})
    so_far = {
        client: list(accumulate(earned.get(round_, 0.0) for round_ in rounds))
        for client, earned in paid.items()
    }
    order = sorted(so_far, key=lambda client: (-so_far[client][-1], client))
    chart = Chart("rewards", "Rewards by client, summed over the rounds", "round", "tokens", [])
    if not any(so_far[client][-1] for client in order):
        return chart
    if len(order) > 1 and all(so_far[client] == so_far[order[0]] for client in order):
        # One line for all: the last one drawn would hide the others.
        return replace(chart, series=[Series(f"each of {len(order)} clients", rounds, so_far[order[0]])])
    few = len(order) <= 2 * _NAMED
    named = order if few else [*order[:_NAMED], *order[-_NAMED:]]
    # The others come first, so that they lie behind.
    others = [
        Series(_name(client, kinds), rounds, so_far[client], colour=_GREY, faint=True)
        for client in order
        if client not in named
    ]
    front = [
        Series(_name(client, kinds), rounds, so_far[client], colour=place, dash=place)
        for place, client in enumerate(named)
    ]
    note = f"Named are the {_NAMED} clients that earned most and the {_NAMED} that earned least."
    return replace(chart, series=[*others, *front], note="" if few else note)


def _scores(rows: Sequence[ClientRow], kinds: Mapping[int, str]) -> Heatmap | None:
    scored = [(row["round"], row["client"], number(row, "score")) for row in rows]
    known = {value for _, _, value in scored if value is not None}
    if len(known) < 2:
        return None
    last = max(round_ for round_, _, _ in scored)
    width = -(-last // _MOST_COLUMNS)
    clients = sorted({client for _, client, _ in scored})
    sums: dict[tuple[int, int], list[float]] = {}
    for round_, client, score in scored:
        if score is not None:
            sums.setdefault((client, (round_ - 1) // width), []).append(score)
    cells = {at: sum(values) / len(values) for at, values in sums.items()}
    bins = range(-(-last // width))
    note = f"Each column is the mean over {width} rounds. " if width > 1 else ""
    return Heatmap(
        key="scores",
        title="Contribution scores by client and round",
        x="round",
        y="client",
        columns=[first * width + (1 + width) / 2 for first in bins],
        rows=[_name(client, kinds) for client in clients],
        values=[[cells.get((client, column)) for column in bins] for client in clients],
        unit="score",
        note=f"{note}Empty where the client was not asked or not admitted.",
    )
