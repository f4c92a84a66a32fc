"""The sections of a comparison's report."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedmeta.report.charts import Chart, Series
from fedmeta.report.page import Figure, Part, Section, described, figures_of, present
from fedmeta.report.read import CompareFiles, TestReader
from fedmeta.report.sections.arms import Arm, Arms, at_step, interval
from fedmeta.report.sections.spread import FAIRNESS, results, spread
from fedmeta.report.tables import Cell, Link, Table, shown


def compare_part(files: CompareFiles, key: str, beside: Path) -> Part:
    """Return all that the report says of a comparison.

    Args:
        files: Its files.
        key: The part's place in the page.
        beside: Folder of the page, from which links to the runs lead.
    """
    if files.problem:
        return Part(files.name, "comparison", files.status, problem=files.problem, key=key)
    arms = Arms(files)
    sections = [
        _about(files),
        _outcome(arms),
        _learning(arms),
        _adaptation(arms),
        _costs(arms),
        _spread(arms, files.path),
        _runs(arms.all, files.path, beside),
    ]
    return Part(
        name=files.name,
        kind="comparison",
        status=files.status,
        said=_said(files.data),
        failure="; ".join(f"{arm['name']}: {arm['error']}" for arm in arms.all if arm.get("error")),
        results=_headline(arms),
        sections=present(sections),
        key=key,
    )


def _said(data: dict[str, Any]) -> str:
    arms = ", ".join(arm["name"] for arm in data["arms"])
    seeds = data["seeds"]
    count = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''} ({', '.join(map(str, seeds))})"
    return f"{data['experiment']}: {arms}; {count} each."


def _headline(arms: Arms) -> list[tuple[str, str]]:
    """Return each arm's result after the last adaptation step."""
    found = []
    for arm in arms.all:
        at = at_step(arm.get("final"), arms.step)
        name = f"{arm['name']}, {arms.measure} after {arms.step} steps"
        found.append((name, shown(interval(at)) if at else str(arm["status"])))
    return found


def _about(files: CompareFiles) -> Section:
    data = files.data
    facts = described(data, ("Seeds", ", ".join(map(str, data["seeds"]))), files.path)
    return Section(key="what", title="What was compared", facts=facts)


def _outcome(arms: Arms) -> Section:
    failed = [arm for arm in arms.all if arm["status"] == "failed"]
    lines = (f"{arm['name']} failed: {arm.get('error') or 'no reason given'}." for arm in failed)
    forest = arms.forest()
    tables = [arms.finals(), arms.differences(), arms.within(), arms.settings()]
    return Section(
        key="outcome",
        title="Results",
        text=f"The test clients' {arms.measure} by adaptation step. {arms.intervals}",
        warning=" ".join(lines),
        figures=[] if forest.empty else [Figure(forest)],
        tables=[table for table in tables if table.rows],
    )


def _learning(arms: Arms) -> Section | None:
    charts = [arms.curve("round", "rounds"), arms.curve("tasks", "training tasks")]
    kept = [chart for chart in charts if not chart.empty]
    return Section("learning", "Learning", figures=figures_of(kept)) if kept else None


def _adaptation(arms: Arms) -> Section | None:
    chart = arms.adaptation()
    return None if chart.empty else Section("adaptation", "Adaptation", figures=figures_of([chart]))


def _costs(arms: Arms) -> Section:
    chart, text = arms.curve("bytes", "megabytes sent, both ways", 1e6), ""
    if arms.target:
        where = f"{arms.measure} {shown(arms.target['value'])} after {arms.step} steps"
        text = f"The target is {where}: {arms.target.get('why') or 'as set'}."
    return Section(
        key="costs",
        title="Costs and communication",
        text=text,
        figures=[] if chart.empty else figures_of([chart]),
        tables=[arms.costs()],
    )


def _spread(arms: Arms, folder: Path) -> Section | None:
    """Return how evenly each arm serves the test clients; read from its runs."""
    rows: list[list[Cell]] = []
    series: list[Series] = []
    reader = TestReader()
    for place, arm in enumerate(arms.all):
        if seeds := _clients_of(arm, arms, folder, reader):
            rows.append([arm["name"], *_mean_spread(seeds, arms.measure)])
            values = sorted(value for seed in seeds for value in seed)
            xs = [place - 0.25 + 0.5 * (i + 0.5) / len(values) for i in range(len(values))]
            known = [value if math.isfinite(value) else None for value in values]
            series.append(Series(arm["name"], xs, known, mark="points", colour=place))
    if not rows:
        return None
    title = f"{arms.measure.capitalize()} of each test client after {arms.step} steps"
    note = "Each point is a test client of one seed; within an arm they are sorted."
    labels = [arm["name"] for arm in arms.all]
    chart = Chart("clients", title, "arm", arms.measure, series, note, labels=labels)
    columns = ["arm", "clients", "mean", "standard deviation", "worst 10%", "best 10%", "Jain's index"]
    title = f"Spread of {arms.measure} over test clients after {arms.step} steps"
    note = f"Of each seed's test clients, then the mean over seeds. {FAIRNESS}"
    table = Table("spread", title, columns, rows, note)
    return Section(
        "spread",
        "Spread over clients",
        warning=reader.problem or "",
        figures=[Figure(chart)],
        tables=[table],
    )


def _clients_of(arm: Arm, arms: Arms, folder: Path, reader: TestReader) -> list[list[float]]:
    """Return the test clients' results of each seed of an arm that has them."""
    found = []
    for run in arm.get("runs", []):
        path = _folder_of(run["run"], folder)
        by_step = results(reader.read(path), arms.measure) if path else {}
        values = by_step.get(arms.step) or by_step.get(max(by_step, default=0))
        if values:
            found.append(list(values.values()))
    return found


def _folder_of(name: str, folder: Path) -> Path | None:
    """Return the folder of a comparison's run; None if it is not beside the comparison or in it.

    That is where a comparison finds its runs; ``compare.json`` of a stranger may name any folder.
    """
    path = Path(os.path.abspath(folder / name))
    return path if Path(os.path.abspath(folder)).parent in path.parents else None


def _mean_spread(seeds: Sequence[Sequence[float]], measure: str) -> list[Cell]:
    every = [spread(values, measure) for values in seeds]
    columns: list[list[float]] = [
        [one.mean for one in every],
        [one.deviation for one in every],
        [one.worst for one in every],
        [one.best for one in every],
        [one.jain for one in every if one.jain is not None],
    ]
    return [every[0].clients, *(sum(column) / len(column) if column else None for column in columns)]


def _runs(arms: Sequence[Arm], folder: Path, beside: Path) -> Section:
    rows: list[list[Cell]] = []
    for arm in arms:
        for run in arm.get("runs", []):
            path = _folder_of(run["run"], folder)
            link: Cell = str(run["run"])
            if path:
                link = Link(str(run["run"]), f"{quote(os.path.relpath(path, beside))}/")
            again = "yes" if run.get("reused") else ""
            rows.append([arm["name"], run["seed"], run["status"], again, run.get("error") or "", link])
    columns = ["arm", "seed", "status", "reused", "error", "folder"]
    return Section("runs", "Runs", tables=[Table("runs", "The runs of each arm", columns, rows)])
