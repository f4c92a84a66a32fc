"""The thread that takes frozen rounds to the chain while training goes on."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmeta.chain.errors import ChainDownError, ChainError
from fedmeta.chain.ledger.journal import Journal
from fedmeta.chain.options import ChainOptions
from fedmeta.errors import FedmetaError, UsageError

if TYPE_CHECKING:
    from fedmeta.chain.ledger.session import Session
    from fedmeta.chain.providers.base import Chain

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 15.0
LOOK_EVERY = 5.0
"""Seconds after which an idle settler looks whether the chain still holds what it held."""

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

    connect: "Callable[[ChainOptions, Path], Chain] | None" = None
    step: Callable[[str], None] | None = None
    note: Callable[[str], None] | None = None


class Settler:
    """Connects, deploys, records and claims, in a thread of its own.

    Whatever the chain does, nothing is raised into the caller's thread: what delays the settlement is in
    `problem` and is tried again, with growing pauses; what ends it is in `refusal`.

    Args:
        journal: Open for writing.
        options: Of the chain.
        folder: Where a chain of ours keeps its state.
        hooks: Seams for tests.

    Attributes:
        problem: Why nothing moves at the moment, in one line; None if all is well.
        refusal: The error that ended the settlement for good; None if none did.
        paid: Units that were claimed for participants at the end.
    """

    def __init__(self, journal: Journal, options: ChainOptions, folder: Path, hooks: Hooks) -> None:
        self.journal = journal
        self.options = options
        self.folder = folder
        self.hooks = hooks
        self.problem: str | None = None
        self.refusal: FedmetaError | None = None
        self.done = False
        self.tried = threading.Event()
        self._draining = threading.Event()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._until: float | None = None
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
        self._thread.join(seconds)
        self.stop()

    def stop(self) -> None:
        """End it as soon as its present request is answered."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    self._settle()
                    return
                except ChainError as error:
                    self._delayed(error)
                    self.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
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
        from fedmeta.chain.ledger.session import open_session

        with open_session(self) as session:
            self.tried.set()
            pause, failures = FIRST_PAUSE, 0
            while not self.done:
                try:
                    self._work(session)
                    pause, failures, self.problem = FIRST_PAUSE, 0, None
                except ChainError as error:
                    self._delayed(error)
                    failures += 1
                    if isinstance(error, ChainDownError) and failures >= FAILURES_BEFORE_RECONNECT:
                        raise
                    self.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)

    def _work(self, session: "Session") -> None:
        """Do the next thing."""
        began, draining = time.thread_time(), self._draining.is_set()
        # Cleared before looking: what is frozen from here on wakes it again.
        self._wake.clear()
        if session.record(draining):
            if not draining:
                self._leave_room(time.thread_time() - began)
        elif draining:
            session.claim()
            self.done = True
        else:
            self._idle()

    def _leave_room(self, seconds: float) -> None:
        # Python threads share one processor: training must get most of it.
        self._stop.wait(min(seconds * (1 / SHARE - 1), 1.0))
        self._check()

    def _idle(self) -> None:
        self._wake.wait(LOOK_EVERY)
        self._check()

    def wait(self, seconds: float) -> None:
        """Sleep, unless it is time to stop.

        Raises:
            StoppedError: If it is.
        """
        left = seconds if self._until is None else min(seconds, self._until - time.monotonic())
        self._stop.wait(max(0.0, left))
        self._check()

    def _check(self) -> None:
        if self._stop.is_set() or (self._until is not None and time.monotonic() >= self._until):
            raise StoppedError

    def _delayed(self, error: ChainError) -> None:
        if isinstance(error, UsageError) and not isinstance(error, ChainDownError):
            raise error
        self.tried.set()
        if self.problem != str(error):
            self._say(str(error))
        self.problem = str(error)

    def _say(self, line: str) -> None:
        if self.hooks.note:
            self.hooks.note(line)
