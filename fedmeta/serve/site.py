"""Makes the pages about a folder of runs."""

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedmeta.experiment.folder import RunFolder
from fedmeta.report.page import Keys, Part
from fedmeta.report.parts import compare_part, run_part, unreadable_part
from fedmeta.report.read import read_compare
from fedmeta.report.render.html import figures_of, render_part
from fedmeta.serve.index import Entry, Events, Index, UnknownError, Versions
from fedmeta.serve.pages import OpenRuns, Page, Pages
from fedmeta.serve.selected import selected_part
from fedmeta.serve.summary import Summaries

Links = list[tuple[str, str, str]]
"""Name, address, and a command where there is no address."""


class Site:
    """A folder of runs, and the pages about it.

    Every method that takes an id raises `UnknownError` if it is none, or if its files may not be read.

    Args:
        root: The folder of runs.
        stopping: Whether the server is about to end.
    """

    def __init__(self, root: Path, stopping: Callable[[], bool]) -> None:
        self.index = Index(root)
        self.summaries = Summaries()
        self.events = Events(self._versions, stopping)
        self.pages = Pages()
        self._open = OpenRuns()

    def _versions(self) -> Versions:
        entries = self.index.entries()
        rows = self.summaries.all(entries)
        return {row["id"]: (entries[row["id"]].stamp, row["status"]) for row in rows}

    def require(self, id_: str) -> Entry:
        """Return the run or comparison of an id."""
        entry = self.index.find(id_)
        if entry.problem:
            raise UnknownError(f"this {entry.kind} is not read: {entry.problem}")
        return entry

    def runs(self) -> dict[str, Any]:
        """Return the list of runs and comparisons."""
        return {"root": str(self.index.root), "rows": self.summaries.all(self.index.entries())}

    def page(self, id_: str) -> Page:
        """Return the page of a run or a comparison, with the sections of its report."""
        entry = self.require(id_)

        def make() -> str:
            part = self._part(entry)
            return _rendered(part, [id_], id_, _links(entry, part.status))

        return self.pages.get(id_, _stamp(entry), make)

    def _part(self, entry: Entry) -> Part:
        key = Keys().new(entry.path.name)
        try:
            if entry.kind == "comparison":
                return compare_part(read_compare(entry.path), key, entry.path, self._readable)
            with self._open.reading(entry) as files:
                return run_part(files, key)
        except Exception as error:
            return unreadable_part(entry.path, entry.kind, key, error)

    def _readable(self, path: Path) -> bool:
        entry = self.index.at(path)
        return entry is not None and entry.problem is None

    def selected(self, ids: Sequence[str]) -> Page:
        """Return the page of some runs side by side."""
        entries = {id_: self.require(id_) for id_ in ids}

        def make() -> str:
            runs = {}
            for id_, entry in entries.items():
                with self._open.reading(entry) as files:
                    runs[id_] = files
            part = selected_part(runs)
            return _rendered(part, list(runs), part.name, [])

        return self.pages.get(tuple(entries), tuple(map(_stamp, entries.values())), make)

    def report(self, id_: str) -> Path:
        """Return the file of a run's or a comparison's report.

        Raises:
            UnknownError: If there is none.
        """
        entry = self.require(id_)
        path = entry.path / "report.html"
        if not path.is_file():
            raise UnknownError(f"no report yet: `fedmeta report {entry.path}` makes it")
        return path


def _stamp(entry: Entry) -> Hashable:
    # No file changes when a run is killed.
    return entry.stamp, RunFolder(entry.path).held()


def _links(entry: Entry, status: str) -> Links:
    report = entry.path / "report.html"
    above = [(f"Comparison {entry.parent}", f"/runs/{quote(entry.parent)}/", "")] if entry.parent else []
    again = status in ("killed", "interrupted", "failed") and entry.kind == "run"
    return [
        *above,
        *([("Resume", "", f"fedmeta resume {entry.path}")] if again else []),
        ("Report", f"/report/{quote(entry.id)}", "")
        if report.is_file()
        else ("Report", "", f"fedmeta report {entry.path}"),
    ]


def _rendered(part: Part, ids: Sequence[str], title: str, links: Links) -> str:
    article, figures = render_part(part), figures_of([part])
    return render("page.html", title=title, ids=ids, links=links, article=article, figures=figures)


@cache
def _environment() -> Environment:
    # Names from the disk or from an address are escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.globals["plotly_version"] = plotly.__version__
    return environment


def render(template: str, **values: object) -> str:
    """Return a page made from a template."""
    return _environment().get_template(template).render(**values)
