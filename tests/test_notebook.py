"""A notebook shows progress while it runs, and runs and comparisons as HTML."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import fedmeta
from fedmeta.errors import UsageError
from fedmeta.experiment import Config, run
from fedmeta.experiment.result import Result
from fedmeta.notebook import Bar
from fedmeta.report.snippet import compare_snippet
from tests.experiment.helpers import TINY


def test_a_loaded_run_is_a_curve_and_a_table(tmp_path: Path) -> None:
    run(Config(**TINY), out=tmp_path / "a-run")
    html = fedmeta.load(tmp_path / "a-run")._repr_html_()
    assert "a-run" in html
    assert html.count("<svg") == 1
    assert html.count("<tr>") == 1 + len(TINY["evaluation"]["steps"])
    assert "<script" not in html
    assert str(tmp_path) not in html


def test_a_comparison_is_curves_and_tables(tmp_path: Path) -> None:
    changes = {"rounds": 2, "evaluation.track": 1, "evaluation.every": 0}
    compared = fedmeta.compare(
        Config(**TINY),
        changes,
        arms=["centralized", "federated"],
        seeds=2,
        execution=fedmeta.Execution(out=tmp_path / "c", jobs=1),
    )
    html = compare_snippet(compared.folder)
    assert html.count("<svg") == 2
    assert html.count("centralized") >= 3
    assert html.count("<tr>") == (1 + 2) + (1 + 1)
    assert "<script" not in html
    (tmp_path / "c" / "compare.json").write_text('{"<b>": ')
    assert "compare.json is damaged" in compare_snippet(tmp_path / "c")


CELLS = (
    """
import fedmeta
settings = {"rounds": 4, "workers": 2, "evaluation.tasks": 5, "evaluation.every": 0}
result = fedmeta.run("quickstart", settings, out="a-run")
result
""",
    'fedmeta.resume("a-run", {"rounds": 6}).frame("metrics")["round"].tolist()',
    """
arms = {"arms": ["centralized", "federated"], "seeds": 1}
fedmeta.compare("quickstart", settings | {"evaluation.track": 1}, **arms)
""",
    'import contextlib\nwith contextlib.suppress(fedmeta.UsageError):\n    fedmeta.run("quikstart")',
)


class Output:
    """What IPython's `display` shows, and how often it was replaced."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def __call__(self, bar: Any, *, display_id: bool) -> "Output":
        assert display_id
        self.update(bar)
        return self

    def update(self, bar: Any) -> None:
        self.shown.append(bar._repr_html_())


def test_the_bar_shows_the_first_and_the_last_round_and_what_comes_after(tmp_path: Path) -> None:
    output = Output()
    result = run(Config(**TINY), {"rounds": 30}, out=tmp_path / "run", listener=Bar(output).listener)
    assert f"maml on sinusoid -&gt; {result.run}" in output.shown[0]
    (last,) = [html for html in output.shown if "round 30/30" in html]
    assert '<progress value="30" max="30">' in last
    assert "0 s left" in last
    assert len(output.shown) < 30, "not for each round"
    assert f"testing {TINY['test_clients']} held-out clients" in output.shown[-1]


def test_the_bar_of_a_comparison_counts_its_runs(tmp_path: Path) -> None:
    output = Output()
    bar = Bar(output)
    bar.end()
    assert output.shown == [], "nothing was shown that could end"
    execution = fedmeta.Execution(out=tmp_path / "c", jobs=1, listener=bar.compare_listener)
    fedmeta.compare(Config(**TINY), {"rounds": 2}, arms=["federated"], seeds=1, execution=execution)
    bar.end()
    assert f"1 runs -&gt; {tmp_path / 'c'}" in output.shown[0]
    assert "1 of 1 runs finished | federated" in output.shown[-2]
    assert re.search(rf"done in \d+ s -&gt; {re.escape(str(tmp_path / 'c'))}", output.shown[-1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_notebook_shows_progress_then_results_and_no_warning(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    ran, resumed, compared, refused = (cell.outputs for cell in notebook.cells)
    everything = [output for cell in notebook.cells for output in cell.outputs]
    assert not [output for output in everything if output.get("name") == "stderr"]
    bar, shown = ran
    assert bar["output_type"] == "display_data"
    assert '<progress value="1" max="1">' in bar["data"]["text/html"], "the last update"
    assert re.search(r"done in \d+ s -&gt; a-run", bar["data"]["text/html"])
    assert "<svg" in shown["data"]["text/html"]
    assert [output["output_type"] for output in resumed][-2:] == ["display_data", "execute_result"]
    assert resumed[-1]["data"]["text/plain"] == "[1, 2, 3, 4, 5, 6]"
    bar, shown = compared
    assert re.search(r"done in \d+ s -&gt; runs/compare-quickstart", bar["data"]["text/html"])
    assert "centralized" in shown["data"]["text/html"]
    assert refused == [], "a bar that has nothing to show is not shown"


def test_a_script_sees_no_bar(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fedmeta.run(Config(**TINY), out=tmp_path / "run")
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(Config(**TINY), out=tmp_path_factory.mktemp("frames") / "run")


def test_the_final_result_is_a_frame_by_step(tiny: Result) -> None:
    frame = tiny.frame()
    assert frame.index.tolist() == TINY["evaluation"]["steps"]
    assert frame["accuracy"].tolist() == [step.accuracy for step in tiny.final]


@pytest.mark.parametrize("log", ["metrics", "clients", "test"])
def test_a_log_is_a_frame_with_its_rows(tiny: Result, log: str) -> None:
    rows = (tiny.run / f"{log}.jsonl").read_text().splitlines()
    frame = tiny.frame(log)
    assert len(frame) == len(rows) > 0
    first = json.loads(rows[0])
    key = "round" if log == "metrics" else "client"
    assert frame[key][0] == first[key]


def test_a_frame_of_an_unknown_log_names_the_nearest(tiny: Result) -> None:
    with pytest.raises(UsageError, match=r"no log 'client': .*clients"):
        tiny.frame("client")


def test_a_frame_without_pandas_says_what_to_install(
    tiny: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="a frame needs pandas: pip install pandas"):
        tiny.frame()
