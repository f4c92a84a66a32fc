"""Whole comparisons: their numbers, reused runs, and failures that they survive."""

import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedmeta.comparison.compare import CompareListener, Comparison, Execution, compare
from fedmeta.comparison.status import Job
from fedmeta.config import to_toml
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.report.read import read_compare
from tests.comparison.helpers import TINY
from tests.experiment.helpers import contents, start

ARMS = ("federated", "fedavg", "same")
CONFIG = Config(**TINY | {"compare": {"points": 5, "arms": {"same": {}}}})
PAGE = Path(__file__).resolve().parents[2] / "docs" / "compare.md"
T3 = 4.302653
"""Student's t, 97.5%, two degrees of freedom."""


class Watch:
    """Records a comparison's notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.changes: list[tuple[str, str]] = []
        self.listener = CompareListener(note=self.notes.append, changed=self._changed)

    def _changed(self, job: Job) -> None:
        self.changes.append((job.name, job.status))


def compared(
    out: Path, config: Config = CONFIG, arms: Sequence[str] = ARMS, seeds: int = 3
) -> tuple[Comparison, Watch]:
    watch = Watch()
    execution = Execution(out, 2, watch.listener)
    return compare(config, arms=arms, seeds=seeds, execution=execution), watch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Watch]:
    """A finished comparison; tests only read it."""
    return compared(tmp_path_factory.mktemp("runs") / "compare-tiny")


def arm(result: Comparison, name: str) -> dict[str, Any]:
    return next(one for one in result.data["arms"] if one["name"] == name)


def losses(result: Comparison, name: str) -> list[float]:
    """Final losses at the last step, by seed, from the runs' own files."""
    folders = (RunFolder.open(result.folder / one["run"]) for one in arm(result, name)["runs"])
    return [folder.info["final"][-1]["loss"] for folder in folders]


def test_the_file_is_the_result_and_a_report_can_read_it(made: tuple[Comparison, Watch]) -> None:
    result, _ = made
    files = read_compare(result.folder)
    assert files.problem is None
    assert files.record is not None
    assert files.record.model_dump(exclude_unset=True) == result.data
    assert (result.status, result.data["status"], result.data["measure"]) == ("finished",) * 2 + (
        "loss",
    )
    assert result.data["seeds"] == [0, 1, 2]
    assert [one["name"] for one in result.data["arms"]] == list(ARMS)
    assert result.data["ended"] is not None


def test_every_field_is_explained_on_the_page(made: tuple[Comparison, Watch]) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## `compare.json`")[2]
    cells = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    named = re.findall(r"`(\w+)`", cells)
    data = made[0].data
    assert sorted(named) == sorted([*data, *data["arms"][0]])


def test_means_and_intervals_are_those_of_the_runs(made: tuple[Comparison, Watch]) -> None:
    result, _ = made
    for name in ARMS:
        values, last = losses(result, name), arm(result, name)["final"][-1]
        assert last["step"] == 3
        assert last["values"] == values
        assert last["mean"] == pytest.approx(statistics.mean(values))
        assert last["ci95"] == pytest.approx(T3 * statistics.stdev(values) / math.sqrt(3), rel=1e-5)
    ours, theirs = losses(result, "fedavg"), losses(result, "federated")
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    paired = arm(result, "fedavg")["difference"][-1]
    assert paired["values"] == pytest.approx(differences)
    assert paired["ci95"] == pytest.approx(T3 * statistics.stdev(differences) / math.sqrt(3), rel=1e-5)
    assert arm(result, "federated")["difference"] is None


def test_costs_are_those_of_the_runs(made: tuple[Comparison, Watch]) -> None:
    result, _ = made
    for name in ("federated", "fedavg"):
        folders = [RunFolder(result.folder / one["run"]) for one in arm(result, name)["runs"]]
        rows = [folder.metrics() for folder in folders]
        assert arm(result, name)["tasks"] == sum(row["tasks"] for row in rows[0]) == 80
        assert arm(result, name)["bytes_up"] == sum(row["bytes_up"] for row in rows[0]) > 0
        assert arm(result, name)["rounds"] == len(rows[0])
        seconds = [folder.info["wall_seconds"] for folder in folders]
        assert arm(result, name)["wall_seconds"]["values"] == seconds
    assert (arm(result, "fedavg")["rounds"], arm(result, "fedavg")["local_steps"]) == (2, 5)
    assert arm(result, "federated")["inner_steps"] == 80
    # A fifth of the rounds sends a fifth of the bytes.
    assert arm(result, "federated")["bytes_down"] == 5 * arm(result, "fedavg")["bytes_down"]


def test_the_target_and_the_way_to_it(made: tuple[Comparison, Watch]) -> None:
    result, _ = made
    target = result.data["target"]
    assert target["value"] == pytest.approx(statistics.mean(losses(result, "federated")) / 0.95)
    assert (target["step"], target["why"]) == (3, "federated's final loss divided by 0.95")
    reach = arm(result, "federated")["to_target"]
    expected: list[int | None] = []
    for one in arm(result, "federated")["runs"]:
        rows = RunFolder(result.folder / one["run"]).metrics()
        looks = [(row["round"], row["test"][-1]["loss"]) for row in rows if row["test"]]
        assert [round_ for round_, _ in looks] == [2, 4, 6, 8, 10]
        expected.append(next((r for r, loss in looks if loss <= target["value"]), None))
    assert reach["rounds"]["values"] == expected
    a_round = arm(result, "federated")["bytes_down"] / 10 + arm(result, "federated")["bytes_up"] / 10
    sent = [None if rounds is None else rounds * a_round for rounds in expected]
    assert reach["bytes"]["values"] == sent
    assert reach["reached"] == 3 - expected.count(None)


def test_the_curve_shows_the_tracked_test_evaluations(made: tuple[Comparison, Watch]) -> None:
    result, _ = made
    curve = arm(result, "federated")["curve"]
    assert [(point["round"], point["tasks"]) for point in curve] == [
        (r, 8 * r) for r in (2, 4, 6, 8, 10)
    ]
    first = [
        RunFolder(result.folder / one["run"]).metrics()[1]["test"][-1]["loss"]
        for one in arm(result, "federated")["runs"]
    ]
    assert curve[0]["mean"] == pytest.approx(statistics.mean(first))


def test_arms_with_the_same_run_share_it(made: tuple[Comparison, Watch]) -> None:
    result, watch = made
    assert [one["run"] for one in arm(result, "same")["runs"]] == [
        one["run"] for one in arm(result, "federated")["runs"]
    ]
    assert {one["reused"] for one in arm(result, "same")["runs"]} == {True}
    assert len({name for name, _ in watch.changes}) == 6
    assert arm(result, "same")["difference"][-1] == {
        "step": 3,
        "mean": 0.0,
        "ci95": 0.0,
        "values": [0.0, 0.0, 0.0],
    }


def test_a_run_of_an_arm_is_an_ordinary_run(made: tuple[Comparison, Watch], tmp_path: Path) -> None:
    result, _ = made
    path = result.folder / "fedavg-seed1"
    run(RunFolder.open(path).config, out=tmp_path / "alone")
    assert contents(path) == contents(tmp_path / "alone")
    assert RunFolder.open(path).config.compare == Config(**TINY | {"compare": {}}).compare


def test_the_same_again_runs_nothing(made: tuple[Comparison, Watch]) -> None:
    before, _ = made
    again, watch = compared(before.folder)
    assert watch.changes == []
    assert again.data["arms"] == [
        {**one, "runs": [{**entry, "reused": True} for entry in one["runs"]]}
        for one in before.data["arms"]
    ]


def test_another_comparison_uses_finished_runs_where_they_lie(made: tuple[Comparison, Watch]) -> None:
    before, _ = made
    other = before.folder.parent / "compare-other"
    again, watch = compared(other, arms=("fedavg", "federated"), seeds=2)
    assert watch.changes == []
    assert [one["run"] for one in arm(again, "fedavg")["runs"]] == [
        "../compare-tiny/fedavg-seed0",
        "../compare-tiny/fedavg-seed1",
    ]
    assert not list(other.glob("*/config.toml"))


def test_runs_of_another_version_are_used_with_a_note(
    made: tuple[Comparison, Watch], tmp_path: Path
) -> None:
    before, _ = made
    shutil.copytree(before.folder, tmp_path / "c")
    for path in (tmp_path / "c").glob("fedavg-*"):
        folder = RunFolder(path)
        folder.update_info({"versions": folder.info["versions"] | {"torch": "1.0"}})
    _, watch = compared(tmp_path / "c")
    assert len(watch.notes) == 1
    assert watch.notes[0].startswith(
        f"3 of 6 finished runs, such as {tmp_path / 'c' / 'fedavg-seed0'}, "
    )
    assert "with other versions of packages: using them anyway" in watch.notes[0]


class OnProgress:
    """Does something to the process of a run that has begun to train, once."""

    def __init__(self, name: str, folder: Path, action: int) -> None:
        self.name, self.folder, self.action = name, folder, action
        self.listener = CompareListener(progress=self._progress)

    def _progress(self, job: Job, done: int, rounds: int) -> None:
        if job.name == self.name:
            self.name = ""
            os.kill(RunFolder(self.folder / job.name).info["pid"], self.action)


LONG = Config(**TINY | {"rounds": 100})


def test_a_killed_worker_fails_only_its_run_which_the_next_start_resumes(tmp_path: Path) -> None:
    out = tmp_path / "compare"
    killer = OnProgress("centralized-seed0", out, signal.SIGKILL)
    arms = ("centralized", "federated")
    result = compare(LONG, arms=arms, seeds=1, execution=Execution(out, 1, killer.listener))
    assert result.failures == (
        "centralized-seed0: its worker process was killed by SIGKILL (out of memory?)",
    )
    assert [one["status"] for one in result.data["arms"]] == ["failed", "finished"]
    assert result.data["status"] == "failed"
    assert arm(result, "centralized")["final"][-1]["mean"] is None
    assert result.data["target"] is None
    again, watch = compared(out, LONG, arms, seeds=1)
    assert again.status == "finished"
    assert watch.changes == [("centralized-seed0", "running"), ("centralized-seed0", "finished")]
    path = out / "centralized-seed0"
    run(RunFolder.open(path).config, out=tmp_path / "undisturbed")
    assert contents(path) == contents(tmp_path / "undisturbed")


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        # One that nobody has waited for yet is dead all the same.
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def begun(process: subprocess.Popen[str], run_: Path) -> int:
    """Wait until a run trains, and return its process."""
    while process.poll() is None:
        if (run_ / "metrics.jsonl").exists() and RunFolder(run_).status == "running":
            return int(RunFolder(run_).info["pid"])
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_running_when_a_comparison_ends_by_a_signal(
    tmp_path: Path, ending: signal.Signals
) -> None:
    endless = LONG.model_copy(update={"rounds": 1_000_000})
    (tmp_path / "tiny.toml").write_text(to_toml(endless))
    out = tmp_path / "c"
    process = start(
        *("compare", "tiny.toml", "--arms", "federated", "--seeds", "1", "--out", str(out)), cwd=tmp_path
    )
    pid = begun(process, out / "federated-seed0")
    process.send_signal(ending)
    _, errors = process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    # It was asked to end, by the signal or by the silence, and closed its folder.
    assert RunFolder(out / "federated-seed0").status == "interrupted"
    data = json.loads((out / "compare.json").read_bytes())
    if ending == signal.SIGTERM:
        assert (process.returncode, errors) == (130, "fedmeta: interrupted\n")
        assert data["status"] == data["arms"][0]["runs"][0]["status"] == "interrupted"
    else:
        assert data["status"] == "running"


def test_a_folder_of_something_else_is_left_alone(
    made: tuple[Comparison, Watch], tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="exists and is not a comparison: choose another --out"):
        compared(tmp_path)
    result, _ = made
    with pytest.raises(UsageError, match="is a comparison of 'run': choose another --out"):
        compare("sinusoid-maml", {"rounds": 10}, arms=["local"], execution=Execution(result.folder))
    with RunFolder(result.folder).locked(), pytest.raises(UsageError, match="in use by process"):
        compared(result.folder)


def test_invalid_comparisons_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "c"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"test_clients": 0}, "a comparison needs test_clients of at least 1"),
        ({"compare.step": 4}, r"compare.step = 4 is not in evaluation.steps = \[0, 1, 3\]"),
        ({"compare.arms.x.chort": 3}, "arm 'x': unknown key 'chort'"),
    ]
    for settings, message in wrong:
        with pytest.raises(ConfigError, match=message):
            compare(CONFIG, settings, execution=Execution(out))
    with pytest.raises(ConfigError, match="seeds = 0"):
        compare(CONFIG, seeds=0, execution=Execution(out))
    with pytest.raises(ConfigError, match="jobs = 0"):
        compare(CONFIG, execution=Execution(out, jobs=0))
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"experiment": "../../etc"}', "is a comparison of '../../etc': choose another --out"),
        ('{"experiment": ["run"]}', r"is a comparison of '\\['run'\\]'"),
        ('{"experiment": {"a": 1}}', "choose another --out"),
    ],
)
def test_another_experiments_comparison_is_not_resumed(tmp_path: Path, text: str, message: str) -> None:
    out = tmp_path / "theirs"
    out.mkdir()
    (out / "compare.json").write_text(text)
    with pytest.raises(UsageError, match=message.replace("\\\\", "\\")):
        compared(out)
    assert (out / "compare.json").read_text() == text
    assert [one.name for one in out.iterdir()] == ["compare.json"]


def test_a_comparison_with_a_link_out_of_it_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary")
    for link in ("run.lock", "workers.log", "compare.json", "federated-seed0"):
        out = tmp_path / f"theirs-{link}"
        out.mkdir()
        (out / "compare.json").write_text("{}")
        (out / link).unlink(missing_ok=True)
        (out / link).symlink_to("../diary")
        with pytest.raises(UsageError, match=f"{link} is a link that leads out of the folder"):
            compared(out)
    assert (tmp_path / "diary").read_text() == "dear diary"
