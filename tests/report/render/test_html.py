"""The HTML page: one file that loads nothing, with all content escaped."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest

from fedmeta.report.charts import PALETTE, Chart, Series
from fedmeta.report.page import Figure, Part, Section
from fedmeta.report.parts import run_part
from fedmeta.report.read import read_run
from fedmeta.report.render.html import LOOK, figure, render, render_part
from fedmeta.report.tables import Table, table_of
from fedmeta.report.writing import write_report
from tests.report.made import EVIL

LOADS = {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}


class Page(HTMLParser):
    """A page as a browser sees it: its elements, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.said.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def pages(
    digits: Path, sinusoid: Path, comparison: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    out = tmp_path_factory.mktemp("out") / "all.html"
    return write_report([digits, sinusoid, comparison], out).report.read_text()


def test_nothing_is_loaded_from_anywhere(pages: str) -> None:
    page = Page(pages)
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in LOADS or (name == "href" and tag == "link"):
                assert (value or "").startswith("data:"), (tag, name, value)
    assert not any(address in pages.split("</style>")[0] for address in ("@import", "url("))
    hrefs = [attributes["href"] or "" for attributes in page.of("a")]
    assert not any(re.match(r"[a-z]+:|//", href) for href in hrefs)


def test_plotly_is_there_once_and_not_for_a_page_without_charts(pages: str) -> None:
    assert pages.count("plotly.js v") == 1
    assert len(render("it", [Part("it", "run", "unreadable", problem="gone")])) < 20_000


def test_names_and_errors_are_text(pages: str, comparison: Path) -> None:
    page = Page(pages)
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert f"more & more failed: round 3: {EVIL}." in " ".join(page.said)
    assert EVIL not in pages
    assert len(page.of("script")) == 3


def test_data_for_scripts_cannot_end_the_script() -> None:
    chart = Chart("k", EVIL, EVIL, EVIL, [Series(EVIL, [1.0], [2.0])], EVIL, labels=["a", EVIL])
    text = render(
        EVIL, [Part(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, [(EVIL, EVIL)], [_section(chart)], "k")]
    )
    page = Page(text)
    assert len(page.of("script")) == 3
    assert not any("onerror" in attributes for _, attributes in page.elements)
    data = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    # Plotly itself reads some HTML in names; they reach it escaped.
    (trace,) = json.loads(data[1])["k-k"]["data"]
    assert trace["name"] == "&lt;img src=x onerror=alert(1)&gt;&lt;/script&gt;"


def _section(chart: Chart) -> Section:
    table = Table("t", EVIL, [EVIL], [[EVIL]], EVIL)
    return Section(EVIL, EVIL, EVIL, EVIL, [(EVIL, EVIL)], [Figure(chart, table_of(chart))], [table])


def test_the_page_can_be_read_without_seeing_it(pages: str) -> None:
    page = Page(pages)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("alt") for attributes in page.of("img"))
    charts = [attributes for attributes in page.of("div") if attributes.get("class") == "chart"]
    assert charts
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in charts)
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = [
        (attributes["href"] or "")[1:]
        for attributes in page.of("a")
        if (attributes["href"] or "")[0] == "#"
    ]
    assert set(targets) <= set(ids)
    assert page.of("html")[0]["lang"] == "en"


def test_the_config_that_was_run_is_shown_with_every_key(digits: Path) -> None:
    run = read_run(digits)
    said = " ".join(Page(render("it", [run_part(run, "it")])).said)
    for fact in (run.info["command"], run.info["started"], run.info["versions"]["torch"]):
        assert fact in said
    for key in ("checkpoint_every = 1", "inner_lr = ", 'kind = "copy"', "max_norm = 1000.0"):
        assert key in said
    assert "the same update as client 1's" in said


def test_every_chart_is_one_that_plotly_accepts(digits: Path, sinusoid: Path) -> None:
    for path in (digits, sinusoid):
        for chart in run_part(read_run(path), "it").charts:
            go.Figure(figure(chart))


def test_ten_thousand_rounds_stay_small_and_their_extremes_are_drawn() -> None:
    values = [0.5 + 0.1 * ((i * 7919) % 100) / 100 for i in range(10_000)]
    values[4321] = 0.99
    chart = Chart("k", "t", "round", "y", [Series("s", list(range(1, 10_001)), values)])
    (trace,) = figure(chart)["data"]
    assert len(trace["x"]) <= 1500
    assert max(trace["y"]) == 0.99
    assert (trace["x"][0], trace["x"][-1]) == (1, 10_000)


def test_a_colour_of_the_palette_is_given_a_light_one_for_the_dark() -> None:
    script = (LOOK / "drawing.js").read_text()
    assert all(f'"{colour}": "#' in script for colour in PALETTE)


def test_commands_in_a_text_are_set_as_code_and_the_rest_of_it_is_text() -> None:
    section = Section("s", "s", text=f"`fedmeta resume a` goes on. {EVIL} `<b>`", warning="a ` alone")
    page = render_part(Part("n", "run", "failed", failure="see `x`", sections=[section], key="n"))
    assert "<p><code>fedmeta resume a</code> goes on. &lt;img" in page
    assert "<code>&lt;b&gt;</code>" in page
    assert "a ` alone" in page
    assert "see <code>x</code>." in page


def test_an_account_is_short_on_the_page_and_can_be_copied_whole() -> None:
    account, digest = "0x" + "aB" * 20, "0x" + "cd" * 32
    cells = [account, digest, account + "0", "0xyz", account.upper()]
    table = Table("t", "t", [str(n) for n in range(5)], [cells])
    page = render_part(Part("n", "run", "", sections=[Section("s", "s", tables=[table])], key="n"))
    assert re.findall(r'<code class="address" title="(\w+)">\1</code>', page) == [account, digest]


def test_a_page_has_the_first_rows_of_a_table_that_no_browser_could_show() -> None:
    table = Table("t", "t", ["client"], [[f"row {i}."] for i in range(6000)])
    part = Part("n", "run", "finished", sections=[Section("s", "s", tables=[table])], key="n")
    page = render("t", [part])
    assert ("row 4999." in page, "row 5000." in page) == (True, False)
    assert "5970 more rows; the first 4970 of them are here," in page
