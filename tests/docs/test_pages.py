"""The pages agree with the files they show, the code they describe, and each other."""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SHOWN = re.compile(r'^```\w+ title="(.+?)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shown() -> list[tuple[str, str]]:
    """Each file that a page shows, with the part shown."""
    return [match for page in PAGES for match in SHOWN.findall(text(page))]


@pytest.mark.parametrize("name", sorted({name for name, _ in shown()}))
def test_a_page_shows_a_file_as_it_is(name: str) -> None:
    assert {content for shown_name, content in shown() if shown_name == name} == {text(DOCS / name)}


def test_every_example_is_shown() -> None:
    files = {f"examples/{path.name}" for path in (DOCS / "examples").iterdir() if path.is_file()}
    assert {name for name, _ in shown()} == files


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(text(page)) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_page_of_configuration_is_what_its_script_prints() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    script = [sys.executable, "-c", code, str(DOCS / "make_config_page.py")]
    utf8 = {"env": os.environ | {"PYTHONIOENCODING": "utf-8"}, "encoding": "utf-8"}
    printed = processes.run(script, cwd=DOCS, **utf8)
    assert printed.returncode == 0, printed.stderr
    remedy = "run `python docs/make_config_page.py > docs/config.md`"
    assert text(DOCS / "config.md") == printed.stdout, remedy


def test_an_arm_that_a_script_trains_keeps_its_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `[compare.arms.fedavg]` in the experiment, beside what the script changes."""
    monkeypatch.syspath_prepend(str(DOCS))
    config_of = importlib.import_module("turns").config_of
    config = config_of("quickstart", "fedavg", {"seed": 1}, {"learner.inner_lr": 0.7})
    kept = (config.local_lr, config.local_steps, config.learner["inner_lr"], config.seed)
    assert kept == (0.5, 5, 0.7, 1)
    # An arm that the experiment says nothing of has settings too.
    assert config_of("quickstart", "centralized", {}, {}).training == "centralized"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_gap_left_to_fill(page: Path) -> None:
    assert "@@" not in text(page)


@pytest.mark.parametrize("picture", sorted((DOCS / "figures").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_small_and_shown_by_a_page(picture: Path) -> None:
    assert picture.stat().st_size < 150_000
    assert any(f"figures/{picture.name})" in text(page) for page in PAGES)
