"""The pages in a real browser."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from fedmeta.experiment import Listener, run
from tests.browser import OpenPage, is_as_wide_as_its_window, screenshot, wait_until
from tests.report.made import EVIL
from tests.serve.serving import Served, copy, edit, rows, serving

HOSTILE = EVIL.replace("/", "|")


def names(page: Page) -> list[str]:
    return page.locator("#runs tbody .name").all_inner_texts()


def row(page: Page, id_: str) -> str:
    return page.locator(f'#runs tbody tr[data-key="{id_}"]').inner_text()


def ready(page: Page) -> Page:
    expect(page.locator("#live")).to_have_text("live")
    return page


def drawn(page: Page, points: int = 1) -> None:
    wait_until(
        page,
        """n => [...document.querySelectorAll(".chart")].some(
          (chart) => (chart.data ?? []).some((trace) => trace.x.length >= n))""",
        arg=points,
    )


DRAWN = """title => document.querySelector(`.chart[aria-label="${title}"]`).data !== undefined"""


def values(page: Page, title: str, name: str) -> list[float]:
    """The values of a curve as plotly has drawn it."""
    return list(
        page.evaluate(
            """([title, name]) => {
              const chart = document.querySelector(`.chart[aria-label="${title}"]`);
              return Array.from(chart.data.find((trace) => trace.name === name).y);
            }""",
            [title, name],
        )
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_list_shows_every_run_and_what_is_wrong_with_it(
    served: Served, open_page: OpenPage, dark: bool
) -> None:
    page = open_page(dark=dark)
    page.goto(served.address)
    ready(page)
    expect(page.locator("#count")).to_have_text("10 runs")
    for id_, text in {
        "digits-001": "finished",
        "half-written": "killed",
        "no-json": "run.json is damaged",
        "of-another-version": "unknown key 'warp'",
        "linked-file": "leads out of the folder of runs",
    }.items():
        assert text in row(page, id_)
    # A name that is HTML is text.
    assert HOSTILE in names(page)
    assert page.locator("main img").count() == 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    screenshot(page, f"serve-list-{'dark' if dark else 'light'}")


def test_the_list_is_sorted_and_searched(served: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(served.address)
    ready(page)
    page.get_by_role("button", name="Run", exact=True).click()
    assert names(page) == sorted(names(page), key=str.lower)
    page.get_by_role("button", name="Run", exact=True).click()
    assert names(page) == sorted(names(page), key=str.lower, reverse=True)
    expect(page.locator("#runs th").filter(has_text=re.compile("^Run$"))).to_have_attribute(
        "aria-sort", "descending"
    )
    page.get_by_role("searchbox").fill("warp unreadable")
    assert names(page) == ["of-another-version"]
    expect(page.locator("#count")).to_have_text("1 of 10 runs")
    # The address keeps what was asked, for going back to it.
    page.reload()
    ready(page)
    expect(page.locator("#count")).to_have_text("1 of 10 runs")


def test_a_run_shows_what_its_files_say(served: Served, open_page: OpenPage) -> None:
    log = rows(served.root / "digits-001" / "metrics.jsonl")
    page = open_page()
    page.goto(served.page("digits-001"))
    drawn(page)
    for measure in ("accuracy", "loss"):
        title = f"{measure.capitalize()} by round"
        page.get_by_role("img", name=title, exact=True).scroll_into_view_if_needed()
        wait_until(page, DRAWN, title)
        assert values(page, title, "training, after adaptation") == [row[measure] for row in log]
    refused = [row for row in rows(served.root / "digits-001" / "clients.jsonl") if not row["admitted"]]
    said = page.locator("#digits-001-quarantine")
    expect(said).to_contain_text(f"{len(refused)} of 30 updates were refused")
    page.get_by_text("The resolved config").click()
    expect(page.locator("#digits-001-what pre")).to_contain_text('rule = "leave-one-out"')
    screenshot(page, "serve-run")


def test_a_hostile_run_is_text_on_every_page(served: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(served.page(HOSTILE))
    expect(page.locator("h1")).to_have_text(HOSTILE)
    expect(page.locator("article")).to_contain_text(EVIL)
    drawn(page)
    assert page.locator("main img[src=x]").count() == 0
    page.goto(f"{served.address}/selected?run={HOSTILE}&run=digits-001")
    drawn(page)
    expect(page.locator("#runs-selected")).to_contain_text(HOSTILE)
    assert page.locator("main img").count() == 0
    page.goto(served.page("compare-quickstart"))
    expect(page.locator("article")).to_contain_text(EVIL)
    assert page.locator("main img").count() == 0


def test_selected_runs_are_compared_by_keyboard_alone(served: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(served.address)
    ready(page)
    page.keyboard.press("/")
    page.keyboard.type("digits")
    expect(page.locator("#search")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
        if focused in ("Select digits-001", "Select compare-quickstart/federated-seed0"):
            page.keyboard.press("Space")
        if page.evaluate("document.activeElement.id") == "compare":
            break
    expect(page.locator("#picked")).to_contain_text("2 runs selected")
    page.keyboard.press("Enter")
    page.wait_for_url("**/selected?*")
    drawn(page)
    expect(page.locator("#runs-selected table").last).to_contain_text("digits-001")
    screenshot(page, "serve-selected")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()


def test_a_comparison_is_shown_with_its_intervals(served: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(served.page("compare-quickstart"))
    drawn(page)
    expect(page.locator("#compare-quickstart-outcome")).to_contain_text("±")
    expect(page.locator("#compare-quickstart-outcome")).to_contain_text("failed")
    page.get_by_role("link", name="federated-seed0").click()
    expect(page.locator("h1")).to_have_text("compare-quickstart/federated-seed0")
    page.get_by_role("link", name="Comparison compare-quickstart").click()
    expect(page.locator("h1")).to_have_text("compare-quickstart")
    drawn(page)
    screenshot(page, "serve-comparison")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/runs/digits-001/",
        pytest.param("/runs/compare-quickstart/", marks=pytest.mark.slow),
        pytest.param("/runs/chained/", marks=pytest.mark.slow),
        pytest.param("/runs/bad-line/", marks=pytest.mark.slow),
        pytest.param("/selected?run=digits-001", marks=pytest.mark.slow),
    ],
)
def test_a_phone_shows_all_without_scrolling_sideways(
    served: Served, open_page: OpenPage, path: str
) -> None:
    page = open_page(phone=True)
    page.goto(served.address + path)
    ready(page)
    if path != "/":
        drawn(page)
    assert is_as_wide_as_its_window(page)
    screenshot(page, f"serve-phone{path.split('?')[0].replace('/', '-').rstrip('-')}")


def test_a_page_that_is_not_there_is_one_panel(served: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(f"{served.address}/runs/..%2f..%2fetc%2fpasswd/")
    expect(page.get_by_role("alert")).to_contain_text("There is no such run", ignore_case=True)
    assert page.complaints.pop().endswith("404 (Not Found)")  # type: ignore[attr-defined]


def test_the_list_says_that_it_loads_until_the_first_answer(served: Served, open_page: OpenPage) -> None:
    page = open_page()
    waiting: list[Route] = []
    page.route("**/api/runs", lambda route: waiting.append(route))
    page.goto(served.address)
    expect(page.locator("#problem")).to_have_text("Loading …")
    ready(page)
    wait_until(page, "true")
    assert page.locator("#runs tbody tr").count() == 0
    while not waiting:
        page.wait_for_timeout(50)
    expect(page.locator("#problem")).to_have_text("Loading …")
    waiting[0].continue_()
    expect(page.locator("#count")).to_have_text("10 runs")
    expect(page.locator("#problem")).to_be_empty()


READ = """() => {
  const of = (name) => [...document.querySelectorAll(".results div")]
    .find((one) => one.querySelector("dt").textContent === name)?.querySelector("dd").textContent;
  const table = [...document.querySelectorAll("table")]
    .find((one) => one.querySelector("thead")?.textContent.includes("rounds asked"));
  const heads = table ? [...table.querySelectorAll("thead th")].map((one) => one.textContent) : [];
  const asked = heads.indexOf("rounds asked");
  const curve = document.querySelector('[data-chart$="-learning-loss"] tbody tr:last-child td');
  const rows = [...(table?.querySelectorAll("tbody tr") ?? [])];
  return [
    of("rounds"),
    rows.map((row) => Number(row.children[asked].textContent)),
    curve && Number(curve.textContent),
  ];
}"""


def test_the_numbers_of_a_page_agree_while_a_run_progresses(tmp_path: Path, open_page: OpenPage) -> None:
    """Every client is asked in every round, so header, clients and curve say the same number."""
    from fedmeta.config import to_toml
    from fedmeta.experiment import Config
    from tests.experiment.helpers import TINY

    everybody = {"rounds": 90, "cohort": 6, "checkpoint_every": 90}
    config = tmp_path / "tiny.toml"
    config.write_text(to_toml(Config(**TINY | everybody | {"evaluation": {"tasks": 4, "every": 0}})))
    stop = threading.Event()
    listener = replace(Listener(), round=lambda _: stop.wait(0.15))
    options = {"out": tmp_path / "runs" / "live", "listener": listener}
    (tmp_path / "runs").mkdir()
    with serving(tmp_path / "runs") as site:
        page = open_page()
        thread = threading.Thread(target=run, args=(str(config),), kwargs=options)
        thread.start()
        try:
            while not (options["out"] / "metrics.jsonl").exists():  # type: ignore[operator]
                page.wait_for_timeout(50)
            page.goto(site.page("live"))
            # The file is there a moment before its first row.
            wait_until(page, f"() => ({READ})()[0] != null")
            seen = set()
            for _ in range(600):
                header, asked, last = page.evaluate(READ)
                done = int(header.split(" ")[0])
                assert set(asked) <= {done}, header
                assert last is None or last == done
                seen.add(done)
                if len(seen) >= 5:
                    break
                page.wait_for_timeout(100)
            assert len(seen) >= 5
            expect(page.get_by_text("The held-out test runs after the last round.")).to_be_visible()
            latest = page.locator(".results dt").filter(has_text="latest loss, training tasks")
            expect(latest).to_have_count(1)
        finally:
            stop.set()
            thread.join(120)
        expect(page.locator("h2 .status")).to_have_text("finished")
        expect(page.locator(".results dt").filter(has_text="final loss, test clients")).to_have_count(2)
        assert page.evaluate(READ)[0] == "90 of 90"
        page.close()


def test_a_viewers_zoom_and_open_tables_survive_new_rounds(own: Path, open_page: OpenPage) -> None:
    log = own / "one" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:4]))
    with serving(own) as site:
        page = open_page()
        page.goto(site.page("one"))
        drawn(page, 4)
        ready(page)
        page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        data = page.locator("figure details").first
        data.locator("summary").click()
        kept = page.locator("#one-what summary")
        kept.click()
        kept.focus()
        before = page.evaluate("[scrollY, document.querySelectorAll('.main-svg').length]")
        page.evaluate("window.chart = document.querySelector('.chart .main-svg')")
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#one-what h3'))")
        log.write_text("".join(lines))
        expect(page.locator(".results")).to_contain_text("6 of 6")
        assert data.evaluate("one => one.open")
        expect(data.locator("tbody tr")).to_have_count(6)
        assert kept.evaluate("one => one.parentElement.open && one === document.activeElement")
        assert page.evaluate("window.chart.isConnected")
        assert page.evaluate("String(getSelection())") == "What was run"
        assert before[0] > 0
        place = kept.evaluate("one => one.getBoundingClientRect().top")
        assert 0 <= place <= 900, "what was in view still is"
        page.close()


@contextmanager
def paused_run(config: Path, out: Path) -> Iterator[threading.Event]:
    """A run in another thread that waits after round 60 until it is released."""
    go_on, arrived = threading.Event(), threading.Event()

    def wait(record: object) -> None:
        if record.round == 60:  # type: ignore[attr-defined]
            arrived.set()
            go_on.wait(60)

    listener = replace(Listener(), round=wait)
    thread = threading.Thread(target=run, args=(str(config),), kwargs={"out": out, "listener": listener})
    thread.start()
    try:
        assert arrived.wait(60)
        yield go_on
    finally:
        go_on.set()
        thread.join(60)


def test_a_new_run_appears_and_its_curves_grow(tmp_path: Path, open_page: OpenPage) -> None:
    from fedmeta.config import to_toml
    from fedmeta.experiment import Config
    from tests.experiment.helpers import TINY

    config = tmp_path / "tiny.toml"
    config.write_text(to_toml(Config(**TINY | {"rounds": 90, "checkpoint_every": 20})))
    (tmp_path / "runs").mkdir()
    with serving(tmp_path / "runs") as site:
        page = open_page()
        page.goto(site.address)
        expect(page.locator("#problem")).to_contain_text("No runs yet")
        page.evaluate("window.stayed = true")
        with paused_run(config, tmp_path / "runs" / "live") as go_on:
            expect(page.locator("#runs .name")).to_have_text("live")
            expect(page.locator("#runs .status")).to_have_text("running")
            expect(page.locator("#runs progress")).to_have_attribute("value", "60")
            assert page.evaluate("window.stayed")
            page.get_by_role("link", name="live").click()
            drawn(page, 60)
            page.evaluate("window.stayed = true")
            assert len(values(page, "Loss by round", "training, after adaptation")) == 60
            go_on.set()
            expect(page.locator("h2 .status")).to_have_text("finished")
        drawn(page, 90)
        log = rows(tmp_path / "runs" / "live" / "metrics.jsonl")
        assert values(page, "Loss by round", "training, after adaptation") == [r["loss"] for r in log]
        assert page.evaluate("window.stayed")
        page.close()  # before its server goes, or it may complain that it cannot find it


def test_a_run_that_is_resumed_starts_its_curves_anew(own: Path, open_page: OpenPage) -> None:
    log = own / "one" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    with serving(own) as site:
        page = open_page()
        page.goto(site.page("one"))
        drawn(page, 6)
        log.write_text("".join(lines[:3]))
        wait_until(
            page,
            """document.querySelector('[aria-label="Accuracy by round"]').data[0].x.length === 3""",
        )
        edit(own / "one", status="failed", error="round 4: the disk is full")
        expect(page.locator("article")).to_contain_text("This run failed. round 4: the disk is full.")
        page.close()


def test_a_server_that_stopped_is_reported_and_found_again(own: Path, open_page: OpenPage) -> None:
    with serving(own) as site:
        page = open_page()
        page.goto(site.address)
        ready(page)
    expect(page.locator("#live")).to_have_text("not connected")
    page.complaints.clear()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_many_tabs_are_open_at_once(served: Served, open_page: OpenPage) -> None:
    """Each in a window of its own, as a browser keeps six connections for all tabs of one window."""
    pages = [open_page() for _ in range(8)]
    # A drawing takes a browser much longer than a connection: one of them, behind all the others.
    for page in pages[:-1]:
        page.goto(served.address)
    pages[-1].goto(served.page("digits-001"))
    for page in pages:
        ready(page)
    drawn(pages[-1])
    for page in pages:
        page.close()


def test_200_runs_are_listed_and_sorted(own: Path, open_page: OpenPage) -> None:
    for number in range(199):
        (own / f"run-{number:03d}").mkdir()
        for name in ("run.json", "config.toml", "metrics.jsonl", "clients.jsonl"):
            (own / f"run-{number:03d}" / name).write_bytes((own / "one" / name).read_bytes())
    assert copy(own / "one", own / "last").exists()
    with serving(own) as site:
        page = open_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(site.address)
        expect(page.locator("#count")).to_have_text("201 runs")
        page.get_by_role("button", name="Run", exact=True).click()
        assert names(page)[0] == "last"
        page.get_by_role("searchbox").fill("run-19")
        expect(page.locator("#count")).to_have_text("9 of 201 runs")
        assert len([url for url in asked if "/api/" in url]) == 1
        assert site.site.summaries.read == 201
