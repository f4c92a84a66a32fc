"""What a client's own code raised: one line for its reply, the traceback for whoever mends the code.

The line is all that crosses a grid. The traceback stays in the process that computed the client, or goes
from a worker process of `vector` to its parent; there `watched` says who is told.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

LONGEST = 16_000
"""Characters of a traceback; of a longer one the end is kept, where the cause is."""


@dataclass(frozen=True)
class Failure:
    """Why a client could not be computed.

    Attributes:
        reason: In one line.
        traceback: What Python says of it; empty where nothing was raised.
        place: Type of the exception, and the line that raised it: equal for failures of one kind.
    """

    reason: str
    traceback: str = ""
    place: str = ""


Watcher = Callable[[int, int | None, Failure], None]
"""Told of a failure with its round (0: after the last) and its client; None: of the pooled learner."""


def describe(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def failure_of(error: BaseException) -> Failure:
    """Return what an exception that was just caught says, without a reference to it."""
    text = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return Failure(describe(error), text[-LONGEST:], f"{type(error).__name__}{at}")


def _nobody(*_: object) -> None:
    """Tell nobody."""


_watcher: ContextVar[Watcher] = ContextVar("watcher", default=_nobody)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of each client that fails in the block, in this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def report(round_: int, client: int | None, failure: Failure) -> None:
    """Tell whoever watches that a client failed."""
    _watcher.get()(round_, client, failure)
