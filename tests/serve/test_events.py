"""Server-sent events: changes are announced, and a stream ends when either side does."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.serve.serving import Served, copy, edit, serving

SOON = 10.0


def eventually(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


class Stream:
    def __init__(self, site: Served) -> None:
        self.connection = site.connect()
        self.connection.request("GET", "/events")
        self.answer = self.connection.getresponse()

    def next(self) -> tuple[str, dict[str, list[str]]]:
        """Return the next event's name and data; comments are passed over."""
        name = "message"
        for line in iter(self.answer.readline, b""):
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key == "event":
                name = value
            if key == "data":
                return name, json.loads(value)
        raise EOFError

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture
def site(own: Path):  # type: ignore[no-untyped-def]
    with serving(own) as site:
        yield site


def test_a_stream_begins_with_a_message_that_it_is_open(site: Served) -> None:
    with closing(Stream(site)) as stream:
        assert stream.answer.getheader("content-type", "").startswith("text/event-stream")
        assert stream.next() == ("on", {})


def test_a_changed_a_new_and_a_removed_run_are_announced(site: Served) -> None:
    with closing(Stream(site)) as stream:
        stream.next()
        with (site.root / "one" / "metrics.jsonl").open("a") as log:
            log.write("{}")
        assert stream.next() == ("message", {"changed": ["one"]})
        copy(site.root / "one", site.root / "two")
        assert stream.next()[1]["changed"] == ["two"]
        (site.root / "two").rename(site.root.parent / "elsewhere")
        assert stream.next()[1]["changed"] == ["two"]


def test_a_killed_run_is_announced_though_none_of_its_files_changes(site: Served) -> None:
    import fcntl

    edit(site.root / "one", status="running")
    with (site.root / "one" / "run.lock").open() as lock, closing(Stream(site)) as stream:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stream.next()
        time.sleep(1.5)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert stream.next()[1] == {"changed": ["one"]}


def test_a_stream_ends_when_its_reader_goes(site: Served) -> None:
    events = site.site.events
    streams = [Stream(site) for _ in range(12)]
    for stream in streams:
        stream.next()
    assert events.open == 12
    for stream in streams:
        stream.close()
    assert eventually(lambda: events.open == 0)


def test_a_stream_ends_when_the_server_does(own: Path) -> None:
    ended = threading.Event()
    with serving(own) as site:
        stream = Stream(site)
        stream.next()

        def wait() -> None:
            with pytest.raises((EOFError, http.client.HTTPException, OSError)):
                stream.next()
            ended.set()

        reader = threading.Thread(target=wait)
        reader.start()
        site.server.should_exit = True
        assert ended.wait(SOON)
        reader.join()
        stream.close()
