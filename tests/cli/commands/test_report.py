"""`fedmeta report` end to end."""

import json
import shutil
from pathlib import Path

import pytest

from tests.experiment.helpers import fedmeta
from tests.report.made import EVIL, make_comparison, make_sinusoid


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    make_sinusoid(folder / "sine")
    make_comparison(folder / "compare-quickstart")
    broken = Path(shutil.copytree(folder / "sine", folder / "broken"))
    (broken / "run.json").write_text('{"status": "fin')
    return folder


def test_a_run_s_report_is_in_its_folder(here: Path) -> None:
    done = fedmeta("report", "sine", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the report is in sine/report.html\n"
    assert ">sine</h1>" in (here / "sine" / "report.html").read_text()


def test_of_several_the_damaged_one_is_named_and_the_others_are_reported(here: Path) -> None:
    inputs = ("broken", "sine", "compare-quickstart")
    done = fedmeta("report", *inputs, "--csv", "numbers", "--png", "figures", "--json", cwd=here)
    assert done.returncode == 1
    assert done.stderr == "fedmeta: broken: run.json is damaged\n"
    said = json.loads(done.stdout)
    assert said["report"] == "report.html"
    assert [(one["kind"], one["status"], one["problem"]) for one in said["inputs"]] == [
        ("run", "unreadable", "run.json is damaged"),
        ("run", "finished", None),
        ("comparison", "failed", None),
    ]
    assert len(said["csv"]) == len(list((here / "numbers").glob("*.csv")))
    assert len(said["png"]) == len(list((here / "figures").glob("*.png")))
    page = (here / "report.html").read_text()
    assert "This run cannot be read completely." in page
    assert "run.json is damaged" in page
    assert EVIL not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sin",), "no run or comparison at 'sin': did you mean 'sine'?"),
        (("sine", "nowhere/at/all"), "no run or comparison at 'nowhere/at/all'"),
        (("../../etc/passwd",), "no run or comparison at '../../etc/passwd'"),
        (("sine", "--out", "compare-quickstart"), "--out compare-quickstart is a folder"),
        ((), "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    here: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(str(path) for path in here.rglob("*"))
    done = fedmeta("report", *arguments, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(str(path) for path in here.rglob("*")) == before
