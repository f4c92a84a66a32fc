"""Pages are rendered once per change, however many viewers there are."""

import threading
from collections.abc import Callable

import pytest

from fedmeta.serve.pages import Page, Pages


class Maker:
    """Renders a counter, and can be blocked."""

    def __init__(self) -> None:
        self.made = 0
        self.began, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self) -> str:
        self.began.set()
        assert self.go_on.wait(60)
        self.made += 1
        return f"text {self.made}"


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.serve.pages._REST", 0)


@pytest.mark.usefixtures("no_rest")
def test_a_page_is_made_again_when_its_stamp_is_new() -> None:
    pages, make = Pages(), Maker()
    said = [pages.get("a", stamp, make).text for stamp in (1, 1, 2, 2, 1)]
    assert said == ["text 1", "text 1", "text 2", "text 2", "text 3"]
    assert pages.get("b", 1, make).text == "text 4"
    assert (pages.made, make.made) == (4, 4)


def together(count: int, ask: Callable[[], Page]) -> list[Page]:
    found: list[Page] = []
    threads = [threading.Thread(target=lambda: found.append(ask())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_a_hundred_readers_of_a_new_page_cost_one_rendering() -> None:
    pages, make = Pages(), Maker()
    found = together(100, lambda: pages.get("a", 1, make))
    assert make.made == 1
    assert found == [Page("text 1")] * 100


@pytest.mark.usefixtures("no_rest")
def test_a_request_during_rendering_gets_the_last_page_marked_as_stale() -> None:
    pages, make = Pages(), Maker()
    pages.get("a", 1, make)
    make.began.clear()
    make.go_on.clear()
    renders = threading.Thread(target=pages.get, args=("a", 2, make))
    renders.start()
    assert make.began.wait(60)
    assert together(100, lambda: pages.get("a", 2, make)) == [Page("text 1", stale=True)] * 100
    make.go_on.set()
    renders.join(60)
    assert pages.get("a", 2, make) == Page("text 2")
    assert make.made == 2


def test_a_page_that_takes_long_is_made_again_only_after_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 2 s, so the next one may begin 6 s later."""
    now = [100.0]
    monkeypatch.setattr("fedmeta.serve.pages.time.monotonic", lambda: now[0])
    pages = Pages()

    def make() -> str:
        now[0] += 2.0
        return f"made until {now[0]:g}"

    assert pages.get("a", 1, make) == Page("made until 102")
    # The first time there is no rest: it may have loaded modules.
    assert pages.get("a", 2, make) == Page("made until 104")
    now[0] = 109.9
    assert pages.get("a", 3, make) == Page("made until 104", stale=True)
    now[0] = 110.0
    assert pages.get("a", 4, make) == Page("made until 112")


def test_pages_without_viewers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.serve.pages._MOST_PAGES", 2)
    pages, make = Pages(), Maker()
    for name in ("a", "b", "a", "c", "a", "b"):
        pages.get(name, 1, make)
    # a, b, c, and b once more, which c had taken the place of.
    assert make.made == 4


def test_the_version_of_a_page_is_that_of_its_text() -> None:
    assert Page("a").version == Page("a", stale=True).version != Page("b").version
    assert Page("\udcff").version
