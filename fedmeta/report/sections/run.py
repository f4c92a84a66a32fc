"""The sections of one run's report."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from fedmeta.config import to_toml
from fedmeta.report.measured import results_table, said_mean
from fedmeta.report.page import Figure, Folded, Part, Section, described, figures_of, present
from fedmeta.report.read import RunFiles, number
from fedmeta.report.sections import refusals
from fedmeta.report.sections.curves import (
    adaptation_charts,
    communication_charts,
    learning_charts,
    main_measure,
    sent_bytes,
)
from fedmeta.report.sections.examples import read_examples
from fedmeta.report.sections.ledger import ledger_section
from fedmeta.report.sections.payment import earnings_table, paid_rows, payment_figures, rounds_table
from fedmeta.report.sections.spread import clients_table, spread_charts, spread_table
from fedmeta.report.tables import Bytes, Table, shown

_MOST_COLUMNS = 100
"""Names of ``metrics.jsonl`` that the CSV file has."""


def run_part(run: RunFiles, key: str) -> Part:
    """Return all that the report says of a run, in whatever state it is.

    Args:
        run: Its files.
        key: The part's place in the page.
    """
    return Part(
        name=run.name,
        kind="run",
        status=run.status,
        said=_said(run),
        problem=run.problem or "",
        failure=_failure(run),
        results=headline(run),
        sections=present(
            [
                _about(run),
                _learning(run),
                _adaptation(run),
                _communication(run),
                _spread(run),
                _examples(run),
                _quarantine(run),
                _payment(run),
                ledger_section(run),
            ]
        ),
        key=key,
    )


def headline(run: RunFiles) -> list[tuple[str, str]]:
    """Return the few numbers that a reader looks for first."""
    measure = main_measure(run)
    found = []
    if run.final:
        for row in dict.fromkeys((0, len(run.final) - 1)):
            at = run.final[row]
            when = "before adaptation" if at["step"] == 0 else f"after {at['step']:g} steps"
            found.append((f"{measure}, test clients, {when}", said_mean(at, measure)))
    total = f" of {run.config.rounds:,}" if run.config else ""
    found.append(("rounds", f"{len(run.metrics):,}{total}"))
    sent = sent_bytes(run.metrics)
    if sent and sent[-1]:
        found.append(("sent, both ways", shown(Bytes(sent[-1]))))
    seconds = number(run.info, "wall_seconds")
    if seconds is not None:
        found.append(("wall time", f"{seconds:,.1f} s"))
    return found


def _failure(run: RunFiles) -> str:
    return str(run.info.get("error") or "It does not say why") if run.status == "failed" else ""


def _said(run: RunFiles) -> str:
    config = run.config
    if config is None:
        return ""
    held_out = config.validation_clients + config.test_clients
    what = f"{config.algorithm} on {config.task}, {config.training} training: {config.clients} clients"
    return f"{what}, {held_out} of them held out, {config.cohort} a round, seed {config.seed}."


def facts_of(run: RunFiles) -> list[tuple[str, str]]:
    """Return where a run's results come from."""
    facts = described(run.info, ("Seed", run.info.get("seed")), run.path)
    if run.config and run.config.description:
        facts.insert(1, ("What it shows", run.config.description))
    return facts


def _about(run: RunFiles) -> Section:
    config = [Folded("The resolved config, every key", to_toml(run.config))] if run.config else []
    return Section(key="what", title="What was run", facts=facts_of(run), folded=config)


def _learning(run: RunFiles) -> Section | None:
    charts = learning_charts(run)
    if not charts:
        return None
    return Section(
        key="learning",
        title="Learning",
        figures=figures_of(charts),
        files=[partial(_metrics_table, run.metrics)],
    )


def _metrics_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Return all numbers of ``metrics.jsonl`` by round, for the CSV file."""
    found = (key for row in metrics for key in row if not isinstance(row[key], list | dict))
    names = list(islice(dict.fromkeys(found), _MOST_COLUMNS))
    rows = [[_plain(row.get(name)) for name in names] for row in metrics]
    return Table("rounds", "Every round", names, rows)


def _plain(value: object) -> str | int | float | None:
    return value if value is None or isinstance(value, int | float) else str(value)


def _adaptation(run: RunFiles) -> Section | None:
    if not run.final:
        return None
    return Section(
        key="adaptation",
        title="Adaptation",
        figures=figures_of(adaptation_charts(run)),
        tables=[results_table(run.final)],
    )


def _communication(run: RunFiles) -> Section | None:
    charts = communication_charts(run)
    if not charts:
        return None
    down, up = (sum(number(row, key) or 0 for row in run.metrics) for key in ("bytes_down", "bytes_up"))
    facts = [("To the clients", shown(Bytes(down))), ("From the clients", shown(Bytes(up)))]
    return Section(key="communication", title="Communication", facts=facts, figures=figures_of(charts))


def _spread(run: RunFiles) -> Section | None:
    measure = main_measure(run)
    charts = spread_charts(run, measure)
    if not charts:
        return None
    tables = [spread_table(run.test, measure), clients_table(run.test, measure)]
    figures = [Figure(chart) for chart in charts]
    return Section(key="spread", title="Spread over clients", figures=figures, tables=tables)


def _examples(run: RunFiles) -> Section | None:
    examples, problem = read_examples(run.path)
    if not examples and problem is None:
        return None
    text = "Tasks of test clients, not among those of the test: what the model saw, and what it said."
    charts = [one.chart for one in examples if one.chart is not None]
    return Section(
        key="examples",
        title="Task examples",
        text=text if examples else "",
        warning=problem or "",
        examples=[one for one in examples if one.chart is None],
        figures=figures_of(charts),
    )


def _quarantine(run: RunFiles) -> Section | None:
    log = run.clients
    if not len(log):
        return None
    skipped = sum(row.get("skipped") is True for row in run.metrics)
    total = f"{len(log.refused):,} of {len(log):,} updates were refused"
    text = f"{total}; {skipped:,} rounds were skipped for want of admitted updates."
    if not log.kinds:
        return Section(key="quarantine", title="Quarantine", text=text)
    return Section(
        key="quarantine",
        title="Quarantine",
        text=text,
        figures=[Figure(chart) for chart in refusals.chart(log)],
        tables=[refusals.reasons_table(log), refusals.clients_table(log)],
    )


def _payment(run: RunFiles) -> Section | None:
    paid = paid_rows(run.clients)
    if paid is None:
        return None
    rule = f"By the rule “{run.config.incentives.rule}”." if run.config else ""
    return Section(
        key="rewards",
        title="Contributions and rewards",
        text=rule,
        figures=payment_figures(paid, run.config),
        tables=[earnings_table(paid, run.config)],
        files=[partial(rounds_table, paid)],
    )
