"""The rows of the list of runs, from each folder's ``run.json``, config and last logged round."""

import threading
from typing import Any

from fedmeta.experiment.rows import half_of
from fedmeta.files import one_line
from fedmeta.report.log import last_round
from fedmeta.report.measured import unit
from fedmeta.report.read import RunFiles, number, read_compare, read_head
from fedmeta.serve.index import Entry, Stamp

Row = dict[str, Any]


class Summaries:
    """The rows of the list; a folder is read again only when one of its files has changed.

    Attributes:
        read: Folders read so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Stamp, Row]] = {}
        self.read = 0

    def all(self, entries: dict[str, Entry]) -> list[Row]:
        """Return a row for each entry, and forget those that are gone."""
        with self._lock:
            self._known = {id_: known for id_, known in self._known.items() if id_ in entries}
            return [self._one(entry) for entry in entries.values()]

    def _one(self, entry: Entry) -> Row:
        known = self._known.get(entry.id)
        # No file changes when a run is killed.
        if known and known[0] == entry.stamp and known[1]["status"] != "running":
            return known[1]
        self.read += 1
        row = _row(entry, "unreadable", entry.problem) if entry.problem else _summary(entry)
        self._known[entry.id] = (entry.stamp, row)
        return row


def summary(entry: Entry) -> Row:
    """Return the row of one run or comparison."""
    return _comparison(entry) if entry.kind == "comparison" else _run(entry)


def _summary(entry: Entry) -> Row:
    try:
        return summary(entry)
    except Exception as error:
        # Whatever is in one folder, the others are shown.
        return _row(
            entry, "unreadable", f"it cannot be read ({type(error).__name__}): {one_line(error)}"
        )


def _row(entry: Entry, status: str, problem: str | None) -> Row:
    row: Row = {"id": entry.id, "kind": entry.kind, "parent": entry.parent}
    return row | {"status": status, "problem": problem}


def _run(entry: Entry) -> Row:
    head = read_head(entry.path)
    last, bad_log = last_round(entry.path)
    config, last = head.config, last or {}
    problem = head.problem or bad_log or _text(head.info.get("error"))
    return _row(entry, status_of(head), problem) | {
        "experiment": _text(head.info.get("experiment")),
        "description": _text(config.description) if config else None,
        "task": config.task if config else None,
        "algorithm": config.algorithm if config else None,
        "training": config.training if config else None,
        "seed": number(head.info, "seed"),
        "rounds": config.rounds if config else None,
        "done": number(last, "round") or 0,
        "last": {measure: number(last, measure) for measure in head.measures},
        "main": next(iter(head.measures)),
        "final": _final(head),
        "started": _text(head.info.get("started")),
        "seconds": number(head.info, "wall_seconds"),
    }


def status_of(head: RunFiles) -> str:
    """Return a run's status; ``unreadable`` if its config or ``run.json`` cannot be read."""
    return "unreadable" if head.problem else head.status


def _final(head: RunFiles) -> Row | None:
    if not head.final:
        return None
    halves = [half_of(measure) for measure in head.measures]
    keys = ("step", *head.measures, *halves, "diverged")
    last = head.final[-1]
    return {key: number(last, key) for key in keys} | {"over": unit([last])}


def _comparison(entry: Entry) -> Row:
    found = read_compare(entry.path)
    record = found.record
    about = record.model_extra or {} if record else {}
    return _row(entry, found.status, found.problem) | {
        "experiment": one_line(record.experiment) if record else None,
        "arms": [one_line(arm.name, 100) for arm in record.arms[:100]] if record else [],
        "seeds": record.seeds[:100] if record else [],
        "started": _text(about.get("started")),
        "seconds": number(about, "wall_seconds"),
    }


def _text(value: object) -> str | None:
    return one_line(value) if isinstance(value, str) else None
