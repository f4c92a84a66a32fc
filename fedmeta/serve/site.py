"""What the page knows of a folder of runs, and the views of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedmeta.report.files import RunFiles
from fedmeta.serve.comparison import comparison_view
from fedmeta.serve.events import Events, Versions
from fedmeta.serve.index import Entry, Index, Kind, UnknownError
from fedmeta.serve.runs import OpenRuns, curves_view, run_view
from fedmeta.serve.selected import selected_view
from fedmeta.serve.summary import Summaries

View = dict[str, Any]


class Site:
    """A folder of runs as the page shows it.

    Every method that takes an id raises `UnknownError` if it is none, or if its files may not be read.

    Args:
        root: The folder of runs.
        stopping: Whether the server is about to end.
    """

    def __init__(self, root: Path, stopping: Callable[[], bool]) -> None:
        self.index = Index(root)
        self.summaries = Summaries()
        self.events = Events(self._versions, stopping)
        self._open = OpenRuns()

    def _versions(self) -> Versions:
        entries = self.index.entries()
        rows = self.summaries.all(entries)
        return {row["id"]: (entries[row["id"]].stamp, row["status"]) for row in rows}

    def require(self, id_: str, kind: Kind = "run") -> Entry:
        """Return the entry of an id."""
        entry = self.index.find(id_, kind)
        if entry.problem:
            raise UnknownError(f"this {kind} is not read: {entry.problem}")
        return entry

    def _files(self, id_: str) -> RunFiles:
        entry = self.require(id_)
        return self._open.get(entry).files(entry)

    def runs(self) -> View:
        """Return the list of runs and comparisons."""
        return {"root": str(self.index.root), "rows": self.summaries.all(self.index.entries())}

    def run(self, id_: str) -> View:
        """Return all about a run but its curves by round and its clients."""
        return run_view(self.require(id_), self._files(id_))

    def curves(self, id_: str, points: int) -> View:
        """Return a run's curves by round, of at most `points` points each."""
        return curves_view(self._files(id_), points)

    def clients(self, id_: str) -> View:
        """Return a run's clients and its quarantine log."""
        return self._open.get(self.require(id_)).clients()

    def selected(self, ids: Sequence[str], points: int) -> View:
        """Return some runs beside each other."""
        return selected_view({id_: self._files(id_) for id_ in dict.fromkeys(ids)}, points)

    def comparison(self, id_: str) -> View:
        """Return a comparison's arms."""
        return comparison_view(self.require(id_, "comparison"), self.index)

    def report(self, id_: str) -> Path:
        """Return the file of a run's or a comparison's report.

        Raises:
            UnknownError: If there is none.
        """
        found = self.index.entries().get(id_)
        entry = self.require(id_, found.kind if found else "run")
        path = entry.path / "report.html"
        if not path.is_file():
            raise UnknownError(f"no report yet: `fedmeta report {entry.path}` makes it")
        return path
