"""The parts of a report as plain data: figures, sections, examples."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmeta.report.charts import Chart, Heatmap
from fedmeta.report.tables import Table, table_of


@dataclass(frozen=True)
class Figure:
    """A chart, and its data as a table; None: another table of the section has them."""

    chart: Chart | Heatmap
    table: Table | None = None


def figures_of(charts: Iterable[Chart]) -> list[Figure]:
    """Return charts, each with its data as a table."""
    return [Figure(chart, table_of(chart)) for chart in charts]


@dataclass(frozen=True)
class Folded:
    """A long text that opens on a click."""

    title: str
    text: str


@dataclass(frozen=True)
class Guess:
    """A prediction for one query; `probability` is of the predicted class."""

    label: int
    probability: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A query picture, its true label, and what was predicted before and after adaptation."""

    picture: str
    label: int
    before: Guess
    after: Guess


@dataclass(frozen=True)
class Window:
    """A stretch of text: its characters, and of the predictions (character, whether it is right)."""

    truth: Sequence[str]
    before: Sequence[tuple[str, bool]]
    after: Sequence[tuple[str, bool]]


@dataclass(frozen=True)
class Example:
    """One test task; which fields it has depends on its kind.

    Attributes:
        client: Whose it is.
        steps: Adaptation steps of "after".
        support: (picture, label) of each support example.
        queries: Query pictures.
        windows: Query windows of a text.
        chart: Fitted curves, or predicted values over true ones.
        right: Queries predicted rightly before and after, and how many there are; None in regression.
        left_out: Queries that are not shown.
    """

    client: int
    steps: int
    support: Sequence[tuple[str, int]] = ()
    queries: Sequence[Query] = ()
    windows: Sequence[Window] = ()
    chart: Chart | None = None
    right: tuple[int, int, int] | None = None
    left_out: int = 0


@dataclass(frozen=True)
class EvidenceRow:
    """A query, its prediction, and how much each support example speaks for it.

    Attributes:
        picture: The query; empty: it is no picture.
        label: Its true class.
        said: The prediction.
        cells: A text for each support example, and its strength from -1 to 1.
    """

    picture: str
    label: int
    said: Guess
    cells: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Evidence:
    """How much the support examples of a task speak for its predictions.

    Attributes:
        client: Whose task it is.
        columns: (picture, class) of each support example; an empty picture: it is none.
        rows: Queries.
        note: How to read it.
    """

    client: int
    columns: Sequence[tuple[str, int]]
    rows: Sequence[EvidenceRow]
    note: str


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        key: Names its place in the page.
        title: Its heading.
        text: A line below the heading.
        warning: What a reader must not miss; empty: nothing.
        facts: Names and values.
        figures: Pictures.
        tables: Tables beside them.
        examples: Tasks as pictures.
        evidence: Tasks with what their predictions rest on.
        folded: Long texts.
        files: What makes the tables that only the CSV writer shows, of a row for each line of a log.
    """

    key: str
    title: str
    text: str = ""
    warning: str = ""
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()
    evidence: Sequence[Evidence] = ()
    folded: Sequence[Folded] = ()
    files: Sequence[Callable[[], Table]] = ()


@dataclass(frozen=True)
class Part:
    """The report of one run or one comparison.

    Attributes:
        name: Its folder's name.
        kind: ``run`` or ``comparison``.
        status: How it stands.
        said: One line about it.
        problem: What is damaged; empty: nothing.
        failure: Why it failed; empty: it did not.
        results: The few numbers that matter most, with their names.
        sections: In order.
        key: Names its place in the page and its files; unique in a page.
    """

    name: str
    kind: str
    status: str
    said: str = ""
    problem: str = ""
    failure: str = ""
    results: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()
    key: str = ""

    @property
    def charts(self) -> list[Chart | Heatmap]:
        """All its charts."""
        return [figure.chart for section in self.sections for figure in section.figures]

    def sheets(self) -> Iterator[Chart | Heatmap | Table]:
        """Yield what is written as CSV: every chart, and every table but those that repeat one."""
        yield from self.charts
        for section in self.sections:
            yield from section.tables
            yield from (make() for make in section.files)


@dataclass
class Keys:
    """Gives out unique names for files and places in a page."""

    taken: set[str] = field(default_factory=set)

    def new(self, name: str) -> str:
        """Return a unique form of `name` that is valid in a file name and an address."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
        key, number = plain, 1
        while key in self.taken:
            number += 1
            key = f"{plain}-{number}"
        self.taken.add(key)
        return key


def described(info: Mapping[str, Any], seeds: tuple[str, object], folder: Path) -> list[tuple[str, str]]:
    """Return where results come from, from ``run.json`` or ``compare.json``.

    Args:
        info: What the file says.
        seeds: Name and value of the line about seeds.
        folder: Where the file is.
    """
    versions = info.get("versions")
    listed = versions.items() if isinstance(versions, dict) else ()
    facts = [
        ("Experiment", info.get("experiment")),
        ("Command", info.get("command")),
        seeds,
        ("Error", info.get("error")),
        ("Started", info.get("started")),
        ("Ended", info.get("ended")),
        ("Git revision", info.get("git")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in listed)),
        ("Folder", folder),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]
