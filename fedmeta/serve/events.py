"""What has changed in the folder of runs, told to every page that is open."""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

from fedmeta.files import to_json
from fedmeta.serve.index import Stamp

Versions = dict[str, tuple[Stamp, str]]

MOST_STREAMS = 32
"""Streams that may be open: each looks at the folder of runs once a second."""
_TICK = 0.25
_LOOK_TICKS = 4
_HEARTBEAT_TICKS = 40


class Events:
    """Server-sent events: the ids of runs and comparisons that changed, appeared or went.

    Args:
        look: Returns what is there and how it stands; may block for some milliseconds.
        stopping: Whether the server is about to end.

    Attributes:
        open: Streams that are open.
    """

    def __init__(self, look: Callable[[], Versions], stopping: Callable[[], bool]) -> None:
        self._look = look
        self._stopping = stopping
        self.open = 0

    async def stream(self) -> AsyncIterator[str]:
        """Yield events until the server ends or the caller goes away.

        The first one says that the stream is on: what happened before it, a page has to ask for.
        """
        self.open += 1
        try:
            seen = await run_in_threadpool(self._look)
            yield "retry: 1000\nevent: on\ndata: {}\n\n"
            tick = 0
            while not self._stopping():
                await asyncio.sleep(_TICK)
                tick += 1
                if tick % _LOOK_TICKS == 0:
                    now = await run_in_threadpool(self._look)
                    changed = _changed(seen, now)
                    seen = now
                    if changed:
                        yield f"data: {to_json({'changed': changed})}\n\n"
                if tick % _HEARTBEAT_TICKS == 0:
                    yield ": still here\n\n"
        finally:
            self.open -= 1


def _changed(before: Versions, now: Versions) -> list[str]:
    return [id_ for id_ in before | now if before.get(id_) != now.get(id_)]
