"""A real Chromium for tests of pages: headless, and watched for errors and calls to other machines."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

ARTIFACTS = os.environ.get("FEDMETA_ARTIFACTS")
"""Where screenshots are kept, if anywhere."""
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
OpenPage = Callable[..., Page]

# A machine that does other work as well is slow; what is right comes at last, and what is wrong never.
_PATIENCE = 60_000
expect.set_options(timeout=_PATIENCE)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


def chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module's tests: its event loop must not outlast them.

    Without a Chromium the test is skipped, and on CI it fails.
    """
    path = chromium()
    if path is None:
        # `make test` looks after this; what CI does not test, nobody does.
        reason = "no Chromium: `make browser` installs one, or says what to install"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Return a function that opens a new page: ``open_page(phone=False, dark=False)``.

    When the test ends, none of its pages may have logged an error or asked another machine for anything.
    What a test expects to fail it takes off ``page.complaints`` first.
    """
    complaints: list[str] = []
    contexts = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"console: {message.text}")

    def asked(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "file", "about") and parts.hostname != "127.0.0.1":
            complaints.append(f"off the machine: {url}")

    def new_page(phone: bool = False, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport=PHONE if phone else DESK,
            color_scheme="dark" if dark else "light",
            has_touch=phone,
        )
        contexts.append(context)
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: asked(request.url))
        page.complaints = complaints
        return page

    yield new_page
    for context in contexts:
        context.close()
    assert complaints == []


def wait_until(page: Page, expression: str, arg: object = None) -> None:
    """Wait until an expression is true in a page.

    Playwright's own `wait_for_function` evaluates a string in the page, which its policy forbids.
    """
    end = time.monotonic() + _PATIENCE / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def screenshot(page: Page, name: str) -> None:
    """Save a picture of the whole page for inspection."""
    if ARTIFACTS:
        Path(ARTIFACTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(ARTIFACTS) / f"{name}.png", full_page=True)


def is_as_wide_as_its_window(page: Page) -> bool:
    """Whether the page does not scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))
