"""The thread that takes frozen rounds to the chain while training goes on."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.errors import ChainDownError, ChainError
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import NotMinedError
from fedmeta.chain.settle.session import Session, SessionSetup, open_session
from fedmeta.errors import FedmetaError

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 15.0
LONGEST_PAUSE_AT_END = 1.0
GIVE_UP_AFTER = 8.0
"""Seconds without any success after which a finished run stops waiting for its chain."""

LOOK_EVERY = 5.0
"""Seconds after which an idle settler looks whether the chain still holds what it held."""

_LONG = 0.1
FAILURES_BEFORE_RECONNECT = 3
SHARE = 0.25
"""Of one processor's time that the settler takes while training goes on."""


class StoppedError(Exception):
    """It is time to stop, wherever the settler is."""


@dataclass(frozen=True)
class Hooks:
    """Seams of the settlement; the defaults are what runs use.

    Attributes:
        connect: Opens the chain.
        step: Called before and after each durable step of the journal.
        note: Called with a line about each thing that delays or ends the settlement.
    """

    connect: Callable[[ChainOptions, Path], Chain] | None = None
    step: Callable[[str], None] | None = None
    note: Callable[[str], None] | None = None


class Settler:
    """Connects, deploys, records and claims, in a thread of its own.

    Whatever the chain does, nothing is raised into the caller's thread: what delays the settlement is in
    `delay` and is tried again, with growing pauses; what ends it is in `refusal`.

    Args:
        journal: Open for writing.
        options: Of the chain.
        folder: Where a chain of ours keeps its state.
        hooks: Seams for tests.

    Attributes:
        delay: Why nothing moves at the moment; None if all is well.
        refusal: The error that ended the settlement for good; None if none did.
        done: Whether all was recorded, and claimed if that was to be.
        waiting: Units that could not be claimed then, because their challenge delay runs.
        tried: Set when it is known whether the chain is there and takes transactions.
    """

    def __init__(self, journal: Journal, options: ChainOptions, folder: Path, hooks: Hooks) -> None:
        self.journal = journal
        self.options = options
        self.folder = folder
        self.hooks = hooks
        self.delay: ChainError | None = None
        self.refusal: FedmetaError | None = None
        self.done = False
        self.waiting = 0
        self.tried = threading.Event()
        self._draining = threading.Event()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._until: float | None = None
        self._failing_since: float | None = None
        # A daemon: a node that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="fedmeta-settler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new to record."""
        self._wake.set()

    def finish(self, seconds: float) -> None:
        """Let it record and claim what is left, for so long at most, and end."""
        self._until = time.monotonic() + seconds
        self._draining.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        self.stop()

    def stop(self) -> None:
        """End it as soon as its present request is answered."""
        for event in (self._stop, self._draining, self._wake):
            event.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        pauses = _Pauses()
        try:
            while True:
                try:
                    self._settle()
                    return
                except ChainError as error:
                    self._delayed(error)
                    self.wait(pauses.next(self._draining.is_set()))
        except StoppedError:
            return
        except FedmetaError as error:
            self.refusal = error
            self._say(str(error))
        except Exception as error:
            # A thread's death would go unseen: the run's end has to tell of it.
            if not self._stop.is_set():
                self.refusal = FedmetaError(f"settlement broke: {type(error).__name__}: {error}")
                self._say(str(self.refusal))
        finally:
            self.tried.set()

    def _settle(self) -> None:
        """Connect, and settle until it is time to stop or the node is away."""
        connect = self.hooks.connect or open_chain
        site = SessionSetup(self.journal, self.options, self.folder, connect, self.wait)
        with open_session(site) as session:
            pauses = _Pauses()
            while not self.done:
                try:
                    self._work(session)
                    pauses, self.delay, self._failing_since = _Pauses(), None, None
                except ChainError as error:
                    self._delayed(error)
                    if isinstance(error, ChainDownError) and pauses.count >= FAILURES_BEFORE_RECONNECT:
                        raise
                    self.wait(pauses.next(self._draining.is_set()))

    def _work(self, session: Session) -> None:
        """Do the next thing."""
        began, draining = time.thread_time(), self._draining.is_set()
        # Cleared before looking: what is frozen from here on wakes it again.
        self._wake.clear()
        recorded = session.record(draining)
        self.tried.set()
        if recorded:
            if not draining:
                self._leave_room(time.thread_time() - began)
        elif draining:
            self.waiting = session.claim()
            self.done = True
        else:
            self._idle()

    def _leave_room(self, seconds: float) -> None:
        # Python threads share one processor: training must get most of it.
        self._stop.wait(min(seconds * (1 / SHARE - 1), 0.5))
        self._check()

    def _idle(self) -> None:
        self._wake.wait(LOOK_EVERY)
        self._check()

    def wait(self, seconds: float) -> None:
        """Sleep, unless it is time to stop.

        Raises:
            StoppedError: If it is.
        """
        if seconds > _LONG:
            # A transaction was taken and its block is slow to come.
            self.tried.set()
        left = seconds if self._until is None else min(seconds, self._until - time.monotonic())
        # Whoever waits for the end does not want to wait for a long pause first.
        event = self._stop if self._draining.is_set() else self._draining
        event.wait(max(0.0, left))
        self._check()

    def _check(self) -> None:
        if self._stop.is_set() or (self._until is not None and time.monotonic() >= self._until):
            raise StoppedError

    def _delayed(self, error: ChainError) -> None:
        self.tried.set()
        now = time.monotonic()
        if self._failing_since is None or not self._draining.is_set():
            self._failing_since = now
        if not isinstance(error, NotMinedError) and now - self._failing_since > GIVE_UP_AFTER:
            self._stop.set()
        if str(self.delay) != str(error):
            self._say(str(error))
        self.delay = error

    def _say(self, line: str) -> None:
        if self.hooks.note:
            self.hooks.note(line)


class _Pauses:
    """Pauses between attempts, each twice as long as the one before, up to a limit.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0

    def next(self, at_end: bool) -> float:
        """Return the next one, in seconds; shorter ones where somebody waits for the end."""
        longest = LONGEST_PAUSE_AT_END if at_end else LONGEST_PAUSE
        pause = min(FIRST_PAUSE * 2.0 ** min(self.count, 20), longest)
        self.count += 1
        return pause
