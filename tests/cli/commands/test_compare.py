"""`fedmeta compare` end to end: tables, JSON, exit codes, and one-line errors."""

import json
from pathlib import Path

import pytest

from fedmeta.cli.main import main
from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder
from fedmeta.experiment.planning import resolve
from tests.comparison.helpers import TINY

BROKEN = """
from fedmeta.learning.algorithms import MAML


class Broken(MAML):
    def task_updates(self, state, tasks):
        raise KeyboardInterruptedByMistake
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the tiny experiment in it."""
    (tmp_path / "tiny.toml").write_text(to_toml(resolve(Config(**TINY))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def rows(out: str, name: str) -> list[list[str]]:
    """The cells of an arm in each table."""
    lines = (line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│"))
    cells = ([cell.strip() for cell in line] for line in lines)
    return [line for line in cells if line[0] == name]


def test_a_comparison_prints_results_and_costs_and_then_the_same_from_its_files(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    asked = ["compare", "tiny.toml", "--arms", "centralized,federated", "--seeds", "2"]
    assert call(*asked, "--arm", "fewer:cohort=2", "--jobs", "2") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "6 runs -> runs/compare-tiny" in out
    assert "6/6 " in out
    assert "mean and 95% interval over 2 seeds" in out
    results, costs = rows(out, "fewer")
    assert len(results) == 5
    assert all("±" in cell for cell in results[1:])
    assert costs[1:3] == ["20", "80"]
    assert rows(out, "centralized")[1][4:6] == ["0.0", "0.0"]
    assert rows(out, "centralized")[0][-1] == ""

    assert call(*asked, "--arm", "fewer:cohort=2", "--json") == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert "6 runs (6 finished before) -> runs/compare-tiny" in err
    assert data == json.loads((here / "runs" / "compare-tiny" / "compare.json").read_text())
    assert [arm["name"] for arm in data["arms"]] == ["centralized", "federated", "fewer"]
    assert f"{data['arms'][2]['final'][-1]['mean']:.3f}" in results[-2]


def test_of_one_seed_the_table_has_the_intervals_over_clients_and_over_tasks(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    asked = ["compare", "tiny.toml", "--arms", "federated,fedavg", "--seeds", "1", "--jobs", "2"]
    assert call(*asked) == 0
    out, _ = capsys.readouterr()
    clients = TINY["test_clients"]
    assert f"mean and 95% interval over {clients} clients (one seed)" in out
    data = json.loads((here / "runs" / "compare-tiny" / "compare.json").read_text())
    assert (data["interval"], data["test_clients"]) == ("clients", clients)
    arm = data["arms"][1]
    final = RunFolder(here / "runs" / "compare-tiny" / "fedavg-seed0").info["final"][-1]
    last = arm["final"][-1]
    assert last["ci95"] == last["clients_ci95"][0] == pytest.approx(final["ci95"])
    assert last["tasks_ci95"] == [final["tasks_ci95"]]
    assert arm["clients"] == [clients]
    [cells, _] = rows(out, "fedavg")
    assert cells[-3:] == [
        f"{last['mean']:.3f} ± {last['ci95']:.3f}",
        f"± {final['tasks_ci95']:.3f}",
        f"{arm['difference'][-1]['mean']:+.3f} ± {arm['difference'][-1]['ci95']:.3f}",
    ]


def test_comparisons_are_listed_and_a_killed_one_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("compare", "tiny.toml", "--arms", "federated", "--seeds", "1", "--json") == 0
    file = here / "runs" / "compare-tiny" / "compare.json"
    finished = json.loads(capsys.readouterr().out)
    for written, shown in ((finished, "finished"), (finished | {"status": "running"}, "killed")):
        file.write_text(json.dumps(written))
        assert call("list", "comparisons", "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)["comparisons"]
        assert row == {
            "comparison": "runs/compare-tiny",
            "experiment": "tiny",
            "status": shown,
            "arms": "federated",
            "seeds": 1,
            "seconds": finished["wall_seconds"],
        }
    file.write_text("{")
    assert call("list", "comparisons") == 0
    assert "unreadable" in capsys.readouterr().out


def test_an_arm_that_fails_is_named_the_others_finish_and_the_exit_code_is_1(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text(BROKEN)
    asked = ["compare", "tiny.toml", "--arms", "federated", "--seeds", "1", "--json"]
    wild = "wild:algorithm=broken:Broken,training=centralized"
    assert call(*asked, "--arm", wild) == 2
    assert "arm 'wild': algorithm 'broken:Broken'" in capsys.readouterr().err
    assert call(*asked, "--arm", wild, "--no-check") == 1
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["status"] == "failed"
    assert [arm["status"] for arm in data["arms"]] == ["finished", "failed"]
    assert data["arms"][0]["final"][-1]["mean"] is not None
    error = "seed 0: round 1: training on the pooled tasks failed: NameError: name"
    assert data["arms"][1]["error"].startswith(error)
    assert "wild-seed0 failed: round 1: training on the pooled tasks failed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstrat"], "unknown experiment 'quickstrat': did you mean 'quickstart'?"),
        (["tiny.toml", "--arms", "federatd"], "unknown arm 'federatd': did you mean 'federated'?"),
        (["tiny.toml", "--arms", ","], "there is no arm to compare"),
        (["tiny.toml", "--seeds", "0"], "--seeds: must be at least 1 (got 0)"),
        (["tiny.toml", "--jobs", "0"], "--jobs: must be at least 1 (got 0)"),
        (["tiny.toml", "--arm", "fewer"], "expected name:key=value"),
        (["tiny.toml", "--arm", "x:chort=2"], "arm 'x': unknown key 'chort': did you mean 'cohort'?"),
        (["tiny.toml", "--arm", "x:data.shots=2"], "arm 'x': data.shots differs from the experiment's"),
        (["tiny.toml", "--arm", "x:task=digits,data={}"], "arm 'x': task differs from the experiment's"),
        (["tiny.toml", "--arm", "a/b:cohort=2"], "an arm's name has only letters, digits, - and _"),
        (["tiny.toml", "-s", "rounds=12"], "set the experiment's rounds to 10 or 15 (now 12)"),
        (["tiny.toml", "-s", "test_clients=0"], "needs test_clients of at least 1"),
        (["tiny.toml", "--out", "."], "exists and is not a comparison"),
        (["tiny.toml", "--out", "tiny.toml"], "exists and is not a comparison"),
        (["tiny.toml", "--out", "tiny.toml/c"], "cannot write to tiny.toml/c: Not a directory"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call("compare", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert message in err
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "--help") == 0
    assert "fedmeta compare quickstart --arms federated,fedavg --seeds" in capsys.readouterr().out
