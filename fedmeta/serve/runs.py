"""One run as the page shows it: its curves, its results, its clients and its ledger."""

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from fedmeta.config import to_toml
from fedmeta.experiment.rows import METRICS, MetricsRow, later_format
from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.measured import results_table
from fedmeta.report.page import Section
from fedmeta.report.parts import headline
from fedmeta.report.read import MOST_VALUES, RunFiles, read_head
from fedmeta.report.render.html import figure
from fedmeta.report.sections.about import facts_of
from fedmeta.report.sections.adaptation import adaptation_charts
from fedmeta.report.sections.communication import communication_charts
from fedmeta.report.sections.learning import learning_charts
from fedmeta.report.sections.ledger import Ledger
from fedmeta.report.tables import Table, shown, table_of
from fedmeta.serve.clients import Clients
from fedmeta.serve.index import Entry
from fedmeta.serve.log import Log
from fedmeta.serve.summary import summary

POINTS = 1200
"""Most points of a curve that are sent, unless a page asks for another number."""
_OPEN_RUNS = 24


class OpenRun:
    """What was read of a run so far, so that each line of its logs is read once.

    Args:
        entry: The run.
    """

    def __init__(self, entry: Entry) -> None:
        self._lock = threading.Lock()
        self.rows: list[MetricsRow] = []
        self.metrics = Log(entry.path, METRICS, self.rows.clear, self.rows.append)
        self._clients = Clients(entry.path)

    def files(self, entry: Entry) -> RunFiles:
        """Return the run's heads and rounds as of now; its other logs are left out."""
        head = read_head(entry.path)
        if later_format(head.info):
            return head
        with self._lock:
            self.metrics.follow()
            return replace(head, metrics=list(self.rows), problem=head.problem or self.metrics.problem)

    def clients(self) -> dict[str, Any]:
        """Return the table of clients as of now; see `Clients.view`."""
        with self._lock:
            return self._clients.view()


class OpenRuns:
    """The runs that pages looked at last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenRun] = OrderedDict()

    def get(self, entry: Entry) -> OpenRun:
        """Return what was read of a run so far."""
        with self._lock:
            found = self._open.setdefault(entry.id, OpenRun(entry))
            self._open.move_to_end(entry.id)
            while len(self._open) > 1 and self._too_many():
                self._open.popitem(last=False)
            return found

    def _too_many(self) -> bool:
        values = sum(run.metrics.values for run in self._open.values())
        return len(self._open) > _OPEN_RUNS or values > MOST_VALUES


def run_view(entry: Entry, run: RunFiles) -> dict[str, Any]:
    """Return all about a run but its curves by round and its clients."""
    ledger = Ledger.of_run(run)
    return summary(entry) | {
        "problem": run.problem,
        "error": run.info.get("error"),
        "resume": f"fedmeta resume {entry.path}",
        "results": headline(run),
        "facts": facts_of(run),
        "config": to_toml(run.config) if run.config else None,
        "adaptation": [chart_view(chart) for chart in adaptation_charts(run)],
        "steps": table_view(results_table(run.final, run.measures)) if run.final else None,
        "ledger": section_view(ledger) if ledger else None,
        "report": report_view(entry),
    }


def curves_view(run: RunFiles, points: int) -> dict[str, Any]:
    """Return a run's curves by round.

    Args:
        run: Its files.
        points: Most points of a curve.
    """
    charts = [*learning_charts(run), *communication_charts(run)]
    return {"rounds": len(run.metrics), "charts": [chart_view(chart, points) for chart in charts]}


def chart_view(chart: Chart | Heatmap, points: int = POINTS) -> dict[str, Any]:
    """Return a chart as plotly draws it, and how many of its points that are.

    Args:
        chart: The chart.
        points: Most points of each of its curves.
    """
    view = {"key": chart.key, "title": chart.title, "note": chart.note}
    if isinstance(chart, Heatmap):
        return view | {"figure": figure(chart), "points": None, "table": None}
    thin = replace(chart, series=[one.thinned(points) for one in chart.series])
    longest = max(range(len(chart.series)), key=lambda place: len(chart.series[place].y), default=None)
    counted = longest is not None and {
        "shown": len(thin.series[longest].y),
        "of": len(chart.series[longest].y),
    }
    return view | {
        "figure": figure(thin),
        "points": counted or None,
        "table": table_view(table_of(chart)),
    }


def table_view(table: Table) -> dict[str, Any]:
    """Return a table with its cells as a reader sees them."""
    rows = [[shown(cell) for cell in row] for row in table.rows]
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "note": table.note}


def section_view(section: Section) -> dict[str, Any]:
    """Return a section of a report but for its examples."""
    return {
        "key": section.key,
        "title": section.title,
        "text": section.text,
        "warning": section.warning,
        "facts": list(section.facts),
        "charts": [chart_view(drawn.chart) for drawn in section.figures],
        "tables": [table_view(table) for table in section.tables],
    }


def report_view(entry: Entry) -> dict[str, Any]:
    """Return whether a folder has a report, and the command that makes it."""
    return {
        "there": (entry.path / "report.html").is_file(),
        "command": f"fedmeta report {entry.path}",
    }
