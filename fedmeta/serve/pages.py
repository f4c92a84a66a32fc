"""Pages about runs, rendered as in the report and kept until a folder changes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256

from fedmeta.report.log import MOST_PARSED, MOST_VALUES
from fedmeta.report.read import RunFiles, RunReader
from fedmeta.serve.index import Entry

_MOST_RUNS = 24
_MOST_PAGES = 24
_REST = 3
"""A page that took a second to make is made again after this many seconds at the earliest."""


@dataclass(frozen=True)
class Page:
    """A rendered page.

    Attributes:
        text: HTML.
        stale: Whether a folder has changed since and the page is not rendered again yet.
    """

    text: str
    stale: bool = False

    @property
    def version(self) -> str:
        """Changes with the text."""
        return sha256(self.text.encode(errors="replace")).hexdigest()[:32]


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stamp: Hashable = None
        self.page: Page | None = None
        self.next = float("-inf")


class Pages:
    """Cache of rendered pages: one rendering for each change, however many readers there are.

    Attributes:
        made: Pages rendered so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        self.made = 0

    def get(self, name: Hashable, stamp: Hashable, make: Callable[[], str]) -> Page:
        """Return a page, rendered if its stamp is new.

        Requests while it is rendered, or shortly after, get the previous one, marked as stale.

        Args:
            name: Which page.
            stamp: Changes whenever a file behind it does.
            make: Renders it.
        """
        slot = self._slot(name)
        before = slot.page
        if not slot.lock.acquire(blocking=before is None):
            assert before is not None
            return replace(before, stale=True)
        try:
            if slot.page is None or (slot.stamp != stamp and time.monotonic() >= slot.next):
                began = time.monotonic()
                slot.page, slot.stamp = Page(make()), stamp
                self.made += 1
                if before is not None:
                    # The first time may be long because modules are loaded.
                    slot.next = time.monotonic() + _REST * (time.monotonic() - began)
            return replace(slot.page, stale=slot.stamp != stamp)
        finally:
            slot.lock.release()

    def _slot(self, name: Hashable) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(name, _Slot())
            self._slots.move_to_end(name)
            while len(self._slots) > _MOST_PAGES:
                self._slots.popitem(last=False)
            return slot


class _OpenRun:
    def __init__(self, entry: Entry) -> None:
        self.lock = threading.Lock()
        self.reader = RunReader(entry.path)


class OpenRuns:
    """Cache of readers of runs, so that each line of a log is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenRun] = OrderedDict()

    @contextmanager
    def reading(self, entry: Entry) -> Iterator[RunFiles]:
        """Yield a run's files as of now; its logs are not read further while the block lasts."""
        run = self._get(entry)
        with run.lock:
            yield run.reader.read()

    def _get(self, entry: Entry) -> _OpenRun:
        with self._lock:
            run = self._open.setdefault(entry.id, _OpenRun(entry))
            self._open.move_to_end(entry.id)
            while len(self._open) > 1 and self._too_many():
                self._open.popitem(last=False)
            return run

    def _too_many(self) -> bool:
        values = sum(run.reader.values for run in self._open.values())
        return len(self._open) > _MOST_RUNS or values > MOST_VALUES + MOST_PARSED
