"""Result tables of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fedmeta.experiment import Result
from fedmeta.experiment.client_totals import COUNTS, UNITS, ClientTotals

if TYPE_CHECKING:
    from fedmeta.chain.settle.status import Participant, Status
    from fedmeta.experiment.streams import Streams
    from fedmeta.federation import StepResult

SHOWN_PARTICIPANTS = 30
SHOWN_REASONS = 5


def earnings_table(participants: Sequence[ClientTotals], on_chain: bool) -> Table:
    """Return each client's contribution, score and earnings, highest paid first."""
    total = sum(one.earned for one in participants) / UNITS
    table = Table(
        title=f"contributions and earnings: {total:,.6g} tokens for {len(participants)} clients",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("client", justify="right")
    if on_chain:
        table.add_column("account", min_width=15)
    for name in ("rounds", "tasks", "mean score", "earned"):
        table.add_column(name, justify="right")
    table.add_column("refused")
    for one in participants[:SHOWN_PARTICIPANTS]:
        refused = one.rounds - one.admitted
        cells = [str(one.client), *([_short(one.account)] if on_chain else [])]
        score = "-" if one.score is None else f"{one.score:.4g}"
        cells += [f"{one.admitted}/{one.rounds}", str(one.tasks), score, f"{one.earned / UNITS:,.2f}"]
        table.add_row(*cells, f"{refused}: {one.refused}" if refused else "")
    if len(participants) > SHOWN_PARTICIPANTS:
        table.caption = f"and {len(participants) - SHOWN_PARTICIPANTS} more: see clients.jsonl"
    return table


def _short(account: str | None) -> str:
    return f"{account[:8]}...{account[-4:]}" if account else "-"


def status_lines(status: "Status") -> Iterator[str]:
    """Yield the state of a campaign as lines."""
    where = f"chain {status.chain_id}, ledger {status.ledger}" if status.ledger else "not on a chain yet"
    yield f"campaign {status.campaign}: {where}"
    pot = f"{_tokens(status.pot)} tokens a round"
    yield f"rounds: {status.recorded} recorded, {status.waiting} waiting; the pot is {pot}"
    if status.escrow:
        escrow = status.escrow
        yield (
            f"tokens: {_tokens(escrow.funded)} funded, {_tokens(escrow.awarded)} awarded, "
            f"{_tokens(escrow.paid)} paid"
        )
    if status.problem:
        yield f"the chain could not be read: {status.problem}"


def participants_table(participants: "Sequence[Participant]") -> Table:
    """Return each participant's awarded and claimed tokens."""
    table = Table()
    table.add_column("client", justify="right")
    table.add_column("account", min_width=42)
    for name in ("earned", "recorded", "paid", "unclaimed"):
        table.add_column(name, justify="right")
    for one in participants:
        amounts = (one.frozen, one.awarded, one.claimed, one.unclaimed)
        cells = ["-" if units is None else f"{units / UNITS:,.2f}" for units in amounts]
        table.add_row(str(one.client), one.account, *cells)
    return table


def _tokens(units: int) -> str:
    return f"{units / UNITS:,.6g}"


def settled_line(result: Result) -> str:
    """Return how many rounds are on the chain, and what to do next."""
    chain = result.chain or {}
    line = f"{chain['recorded']} of {chain['frozen']} rounds recorded on the chain"
    if chain["complete"] and chain["waiting"]:
        later = f"{chain['waiting'] / UNITS:,.6g} tokens are under a challenge delay"
        return f"{line}; {later}: claim them later with `fedmeta chain claim {result.run}`"
    if chain["complete"]:
        return f"{line}; check it with `fedmeta chain audit {result.run}`"
    if chain["refused"]:
        return f"{line}: {chain['problem']}"
    return f"{line}: {chain['problem']}; `fedmeta resume {result.run}` settles the rest"


def replies_line(replies: Mapping[str, Any] | None) -> str | None:
    """Return the reply counts by outcome in one line; None if all were admitted."""
    if not replies or replies["admitted"] == replies["asked"]:
        return None
    counts = ", ".join(f"{replies[name]} {name}" for name in COUNTS if replies[name])
    skipped = f"; {replies['skipped']} rounds skipped" if replies["skipped"] else ""
    return f"{replies['asked']} clients asked: {counts or 'no replies'}{skipped}"


def reasons_table(replies: Mapping[str, Any]) -> Table:
    """Return the reasons for refused replies with an example each, most frequent first."""
    table = Table(title="why replies were not admitted", title_justify="left", title_style="bold")
    table.add_column("replies", justify="right")
    table.add_column("outcome", no_wrap=True)
    table.add_column("clients", justify="right")
    table.add_column("rounds", no_wrap=True)
    table.add_column("for example")
    for row in replies["reasons"][:SHOWN_REASONS]:
        rounds = dict.fromkeys(str(row[name]) for name in ("first_round", "last_round"))
        said = f"{row['example']} (client {row['example_client']}, round {row['example_round']})"
        if row["norms"] and row["norms"][0] < row["norms"][1]:
            said += f"; norms from {row['norms'][0]:.4g} to {row['norms'][1]:.4g}"
        cells = (str(row["count"]), row["outcome"], str(row["clients"]), "-".join(rounds), said)
        table.add_row(*cells)
    if len(replies["reasons"]) > SHOWN_REASONS:
        table.caption = "see run.json for more"
    return table


MOST_COLUMNS = 6
"""Columns of results that fit a terminal; with more, each is a row instead."""


def final_table(what: str, final: "Sequence[StepResult]") -> Table:
    """Return held-out results by adaptation step, with intervals over clients and over tasks.

    Args:
        what: What was tested.
        final: The results.
    """
    first = final[0]
    over = f"{_counted(first.clients, 'client')} ({_counted(first.tasks, 'task')})"
    title = f"{what}: held-out clients, mean and 95% interval over {over}"
    table = Table(title=title, title_justify="left", title_style="bold")
    columns = _columns(final)
    rows = [(_when(step), *(cell(step) for cell in columns.values())) for step in final]
    if len(rows) > 1 and len({cells[1:] for cells in rows}) == 1:
        # An algorithm without adaptation steps, such as class means, has only one row.
        rows = [("any", *rows[0][1:])]
    rows = [("adaptation steps", *columns), *rows]
    if len(columns) > MOST_COLUMNS:
        rows = list(zip(*rows, strict=True))
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left")
    for row in rows[1:]:
        table.add_row(*row)
    if first.clients < first.clients_asked:
        table.caption = f"only {first.clients} of the {first.clients_asked} held-out clients answered"
        table.caption_justify = "left"
    return table


def streams_table(found: "Streams") -> Table:
    """Return a model's results on streams, with intervals over clients."""
    over = f"mean and 95% interval over {_counted(found.clients, 'client')}"
    title = f"{_counted(found.streams, 'stream')} of {len(found.prequential)} segments: {over}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("losses per example")
    table.add_column(found.algorithm, justify="right")
    for name, one in found.summary.items():
        table.add_row(name, _with_half(one.mean, one.ci95))
    if found.diverged:
        table.caption = f"{found.diverged} diverged: their losses are infinite"
        table.caption_justify = "left"
    return table


def _when(step: "StepResult") -> str:
    return "before" if step.step == 0 else str(step.step)


def _columns(final: Sequence["StepResult"]) -> dict[str, Callable[["StepResult"], str]]:
    """Return the cell functions of an adaptation step, by column name."""
    main = final[0].main
    columns: dict[str, Callable[[StepResult], str]] = {
        main: lambda step: _with_half(step.measures[main].mean, step.ci95),
        "over tasks": lambda step: _half(step.tasks_ci95),
    }
    others = [name for name in final[0].measures if name not in (main, "loss")]
    inductive = final[0].inductive
    if inductive and any(step.measures[inductive] != step.measures[main] for step in final):
        columns["without transduction"] = lambda step: _with_half(
            step.measures[inductive].mean, step.measures[inductive].ci95
        )
    for name in (*others, *(["loss"] if main != "loss" else [])):
        if name != inductive:
            columns[name] = partial(_mean_of, name)
    if any(step.diverged for step in final):
        columns["diverged"] = _diverged
        columns["loss of the others"] = lambda step: _with_half(step.finite_loss, None)
    return columns


def _mean_of(name: str, step: "StepResult") -> str:
    return _with_half(step.measures[name].mean, None)


def _diverged(step: "StepResult") -> str:
    if not step.diverged:
        return "0"
    return f"{_counted(step.diverged, 'task')} of {_counted(step.diverged_clients, 'client')}"


def _with_half(mean: float | None, half: float | None) -> str:
    if mean is None:
        return "-"
    return _number(mean) if half is None else f"{_number(mean)} {_half(half)}"


def _half(half: float | None) -> str:
    return "-" if half is None else f"± {_number(half)}"


def _number(value: float) -> str:
    # A diverging loss may have dozens of digits.
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
