"""A run in a few lines of HTML, for notebooks: one curve, one table, no script."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from fedmeta.report.charts import PALETTE, Chart
from fedmeta.report.measured import results_table
from fedmeta.report.read import RunFiles, read_compare, read_run
from fedmeta.report.render.svg import draw
from fedmeta.report.sections.arms import Arms
from fedmeta.report.sections.curves import learning_charts, main_measure
from fedmeta.report.tables import Table, shown

_CELL = "padding:2px 10px;text-align:right;border:0"


def run_snippet(path: Path) -> str:
    """Return a run's learning curve and its result by adaptation step as HTML.

    Args:
        path: The run's folder, in whatever state it is.
    """
    run = read_run(path)
    parts = [_head(run), _curve(run), _shown(results_table(run.final)) if run.final else ""]
    return f'<div style="max-width:680px">{"".join(parts)}</div>'


def compare_snippet(path: Path) -> str:
    """Return a comparison's curves and its result by arm as HTML.

    Args:
        path: The comparison's folder, in whatever state it is.
    """
    files = read_compare(path)
    if files.problem:
        return f"<p><strong>{escape(files.name)}</strong><br><em>{escape(files.problem)}</em></p>"
    arms = Arms(files)
    charts = [chart for chart in (arms.curve("round", "rounds"), arms.adaptation()) if not chart.empty]
    drawn = "".join(f"{draw(replace(chart, log_y=False))}{_legend(chart)}" for chart in charts)
    tables = "".join(_shown(table) for table in (arms.finals(), arms.differences()) if table.rows)
    return f'<div style="max-width:680px">{drawn}{tables}<p>{escape(arms.intervals)}</p></div>'


def _shown(table: Table) -> str:
    rows = (_row([shown(cell) for cell in row]) for row in table.rows)
    head = _row(table.columns, "th")
    body = f'<table style="border-collapse:collapse">{head}{"".join(rows)}</table>'
    return f"<p>{escape(table.title)}</p>{body}"


def _head(run: RunFiles) -> str:
    config, rounds = run.config, len(run.metrics)
    what = f"{config.algorithm} on {config.task}, seed {config.seed}, " if config else ""
    total = f" of {config.rounds}" if config else ""
    said = f"{what}{rounds}{total} rounds, {run.status}"
    why = run.problem or (run.info.get("error") if run.status == "failed" else None)
    problem = f"<br><em>{escape(str(why))}</em>" if why else ""
    return f"<p><strong>{escape(run.name)}</strong><br>{escape(said)}{problem}</p>"


def _curve(run: RunFiles) -> str:
    key = f"learning-{main_measure(run)}"
    found = [chart for chart in learning_charts(run) if chart.key == key]
    return "".join(f"{draw(replace(chart, log_y=False))}{_legend(chart)}" for chart in found)


def _legend(chart: Chart) -> str:
    keys = (
        f'<span style="color:{PALETTE[one.colour % len(PALETTE)]}">&#9632;</span> {escape(one.name)}'
        for one in chart.series
        if not one.faint
    )
    return f'<p style="font-size:85%">{" &nbsp; ".join(keys)}</p>'


def _row(cells: Sequence[str], kind: str = "td") -> str:
    return (
        "<tr>" + "".join(f'<{kind} style="{_CELL}">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"
    )
