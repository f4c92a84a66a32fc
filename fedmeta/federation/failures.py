"""Failures of a client's own code: a one-line reason for its reply, a traceback for the developer.

Only the reason crosses a grid. The traceback stays in the process that computed the client, or goes from
a worker process of `vector` to its parent; `watched` sets who receives it there.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

LONGEST = 16_000
"""Characters kept of a traceback: its end, where the cause is."""


@dataclass(frozen=True)
class Failure:
    """Why a client could not be computed.

    Attributes:
        reason: The reason in one line.
        traceback: Python's traceback; empty if nothing was raised.
        place: Exception type and the line that raised it, which are equal for failures of one kind.
    """

    reason: str
    traceback: str = ""
    place: str = ""


Watcher = Callable[[int, int | None, Failure], None]
"""Called with the round (0: after the last), the client (None: the pooled learner) and the failure."""


def describe(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def failure_of(error: BaseException) -> Failure:
    """Return the `Failure` of a caught exception, without keeping a reference to it."""
    text = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return Failure(describe(error), text[-LONGEST:], f"{type(error).__name__}{at}")


def _nobody(*_: object) -> None:
    """Ignore a failure."""


_watcher: ContextVar[Watcher] = ContextVar("watcher", default=_nobody)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` for each client that fails in the block, in this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def report(round_: int, client: int | None, failure: Failure) -> None:
    """Pass a client's failure to the current watcher."""
    _watcher.get()(round_, client, failure)
