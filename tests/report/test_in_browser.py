"""The page in a real Chromium: it draws, makes no requests, and works on a phone and in dark mode."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from fedmeta.report.charts import Chart, Series
from fedmeta.report.page import Figure, Part, Section
from fedmeta.report.render.html import render
from fedmeta.report.writing import write_report
from tests.browser import OpenPage, browser, is_as_wide_as_its_window, open_page, screenshot, wait_until
from tests.report.made import lines

__all__ = ["browser", "open_page"]


@pytest.fixture(scope="module")
def short(comparison: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([comparison], tmp_path_factory.mktemp("out") / "short.html").report


def drawn(folder: Path, values: list[float]) -> Path:
    """Write a page with one curve."""
    chart = Chart("k", "t", "round", "y", [Series("s", list(range(1, len(values) + 1)), values)])
    part = Part("n", "run", "finished", sections=[Section("s", "s", figures=[Figure(chart)])], key="n")
    file = folder / "drawn.html"
    file.write_text(render("one curve", [part]))
    return file


def look(page: Page, file: Path, most: int = 1) -> None:
    """Open the file and scroll to its first `most` charts."""
    page.goto(file.as_uri())
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    charts = page.locator(".chart")
    for place in range(min(charts.count(), most)):
        charts.nth(place).scroll_into_view_if_needed()
        charts.nth(place).locator(".main-svg").first.wait_for()
    page.evaluate("scrollTo(0, 0)")


def check(page: Page, file: Path, name: str) -> None:
    """Look at all of a page: it asks for nothing, and is no wider than its window; keep a picture."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    look(page, file, most=100)
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert is_as_wide_as_its_window(page)
    screenshot(page, name)


@pytest.mark.parametrize(
    ("phone", "dark"), [pytest.param(False, False, marks=pytest.mark.slow), (True, True)]
)
def test_a_comparisons_charts_are_drawn_without_warnings(
    short: Path, open_page: OpenPage, phone: bool, dark: bool
) -> None:
    name = f"report-comparison-{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}"
    check(open_page(phone=phone, dark=dark), short, name)


@pytest.mark.slow
@pytest.mark.parametrize(("phone", "dark"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("kind", ["digits", "sinusoid", "chained"])
def test_a_runs_charts_are_drawn_without_warnings(
    kind: str,
    tmp_path: Path,
    open_page: OpenPage,
    request: pytest.FixtureRequest,
    phone: bool,
    dark: bool,
) -> None:
    file = write_report([request.getfixturevalue(kind)], tmp_path / "r.html").report
    name = f"report-{kind}-{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}"
    check(open_page(phone=phone, dark=dark), file, name)


def test_the_dark_is_dark_and_its_lines_are_light(tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(dark=True)
    look(page, drawn(tmp_path, [0.0, 1.0]))
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    line = page.locator(".chart .js-line").first
    assert "rgb(77, 166, 232)" in (line.get_attribute("style") or "")
    page.emulate_media(color_scheme="light")
    wait_until(
        page,
        "document.querySelector('.chart .js-line').getAttribute('style').includes('rgb(0, 114, 178)')",
    )


def test_a_name_that_carries_html_is_shown_and_not_run(short: Path, open_page: OpenPage) -> None:
    page = open_page()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    look(page, short)
    assert page.locator("img[src='x']").count() == 0
    assert page.get_by_text("round 3: <img src=x onerror=alert(1)></script>").count() >= 1


def test_the_keyboard_reaches_the_content_and_opens_a_table(short: Path, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(short.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    table = page.locator("figure details").first
    table.locator("summary").focus()
    page.keyboard.press("Enter")
    assert table.locator("table").is_visible()
    assert "federated" in table.locator("thead").inner_text()


def test_the_drawn_curve_is_the_run_s(sinusoid: Path, tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page()
    look(page, write_report([sinusoid], tmp_path / "r.html").report)
    curves = page.evaluate("document.querySelector('.chart').data.map(one => [one.name, [...one.y]])")
    expected = [row["loss"] for row in lines(sinusoid / "metrics.jsonl")]
    assert dict(curves)["training, after adaptation"] == expected


def test_ten_thousand_rounds_are_drawn_with_their_extremes(tmp_path: Path, open_page: OpenPage) -> None:
    values = [0.5 + (i * 7919 % 997) / 5000 for i in range(10_000)]
    values[6543] = 0.99
    page = open_page()
    look(page, drawn(tmp_path, values))
    shown = page.evaluate("[...document.querySelector('.chart').data[0].y]")
    assert max(shown) == 0.99
    assert len(shown) <= 1500
