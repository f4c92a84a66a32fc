"""The part of a run or a comparison shows what its files say."""

import json
import math
import shutil
from pathlib import Path

import pytest

from fedmeta.errors import UsageError
from fedmeta.experiment import RunFolder
from fedmeta.report.charts import Chart
from fedmeta.report.page import Part, Section
from fedmeta.report.parts import compare_part, headline, run_part
from fedmeta.report.read import read_compare, read_run, require_folder
from fedmeta.report.tables import Bytes, Interval, Link, Table
from tests.report.made import EVIL, client_accuracy, lines, write_compare


@pytest.fixture(scope="module")
def part(comparison: Path) -> Part:
    return compare_part(read_compare(comparison), "it", comparison)


def section(part: Part, key: str) -> Section:
    return next(one for one in part.sections if one.key == key)


def table(part: Part, key: str) -> Table:
    return next(one for section in part.sections for one in section.tables if one.key == key)


def chart(part: Part, key: str) -> Chart:
    found = next(one for one in part.charts if one.key == key)
    assert isinstance(found, Chart)
    return found


def test_results_are_the_file_s(part: Part, comparison: Path) -> None:
    arms = json.loads((comparison / "compare.json").read_text())["arms"]
    rows = {row[0]: row[1:] for row in table(part, "arms").rows}
    assert list(rows) == ["centralized", "federated", "fedavg"]
    for arm in arms[:3]:
        assert rows[arm["name"]] == [Interval(at["mean"], at["ci95"]) for at in arm["final"]]
    assert part.results[1] == ("federated, accuracy after 10 steps", "0.605 ± 0.030")


def test_differences_are_a_forest_around_zero(part: Part) -> None:
    drawn = chart(part, "forest")
    assert (drawn.flip, drawn.line, drawn.labels) == (True, 0.0, ["federated", "fedavg"])
    assert [series.y for series in drawn.series] == [[0.1], [0.2]]
    assert [(s.low, s.high) for s in drawn.series] == [
        ([0.1 - 0.02], [0.1 + 0.02]),
        ([0.2 - 0.02], [0.2 + 0.02]),
    ]
    assert [row[0] for row in table(part, "differences").rows] == ["federated", "fedavg"]


def test_costs_are_the_file_s(part: Part) -> None:
    costs = table(part, "costs")
    row = dict(zip(costs.columns, costs.rows[1], strict=True))
    assert row["arm"] == "federated"
    assert row["sent to clients"] == Bytes(1_500_000)
    assert row["rounds to target"] == Interval(40.0, 5.0)
    assert row["wall time in s"] == Interval(12.5, 1.25)
    assert (row["tasks"], row["inner steps"]) == (2400, 12000)


def test_an_arm_has_one_colour_in_all_charts_and_no_bytes_no_place_among_bytes(part: Part) -> None:
    colours: dict[str, set[int]] = {}
    for one in part.charts:
        assert isinstance(one, Chart)
        for series in one.series:
            colours.setdefault(series.name, set()).add(series.colour)
    assert colours == {"centralized": {0}, "federated": {1}, "fedavg": {2}}
    assert [series.name for series in chart(part, "curve-bytes").series] == ["federated", "fedavg"]
    assert chart(part, "curve-bytes").series[0].x[-1] == 3.0
    assert chart(part, "curve-round").line == 0.475


def test_a_failed_arm_is_named_with_its_error(part: Part) -> None:
    assert section(part, "outcome").warning == f"more & more failed: round 3: {EVIL}."
    assert table(part, "what-arms").rows[3][3:] == ["failed", f"round 3: {EVIL}"]


def test_spread_is_the_mean_over_seeds_of_each_seed_s(part: Part) -> None:
    """20 clients in steps of 0.01: the worst tenth is two, the variance (20^2 - 1) / 12 e-4."""
    for row, place in zip(table(part, "spread").rows, range(3), strict=True):
        assert row[1] == 20
        assert row[2:6] == pytest.approx(
            [
                client_accuracy(place, 0) + 0.095,
                0.01 * math.sqrt(399 / 12),
                client_accuracy(place, 0) + 0.005,
                client_accuracy(place, 19) - 0.005,
            ]
        )
    assert len(chart(part, "clients").series[0].y) == 40


def test_links_lead_to_the_runs_from_where_the_page_is(comparison: Path, tmp_path: Path) -> None:
    part = compare_part(read_compare(comparison), "it", comparison.parent)
    link = table(part, "runs").rows[0][-1]
    assert link == Link("centralized-seed0", "compare-quickstart/centralized-seed0/")
    odd = [
        {"name": "x", "status": "waiting", "runs": [{"seed": 0, "run": "javascript:a()", "status": "x"}]}
    ]
    write_compare(tmp_path, arms=odd)
    (row,) = table(compare_part(read_compare(tmp_path), "it", tmp_path), "runs").rows
    assert row[-1] == Link("javascript:a()", "javascript%3Aa%28%29/")


def test_a_comparison_that_has_just_started(tmp_path: Path) -> None:
    waiting = {"name": "a", "status": "waiting", "final": None, "curve": None, "wall_seconds": None}
    write_compare(tmp_path, arms=[waiting], target=None, status="running")
    part = compare_part(read_compare(tmp_path), "it", tmp_path)
    assert part.results == [("a, accuracy after 10 steps", "waiting")]
    assert part.charts == []
    write_compare(tmp_path, arms=[], steps=[])
    assert compare_part(read_compare(tmp_path), "it", tmp_path).problem == ""


def test_one_that_was_killed_says_so_and_so_do_its_runs(tmp_path: Path) -> None:
    runs = [{"seed": k, "run": f"a-seed{k}", "status": s} for k, s in enumerate(["finished", "running"])]
    write_compare(tmp_path, arms=[{"name": "a", "status": "running", "runs": runs}], status="running")
    part = compare_part(read_compare(tmp_path), "it", tmp_path)
    assert part.status == "killed"
    assert [row[2] for row in table(part, "runs").rows] == ["finished", "killed"]
    with RunFolder(tmp_path).locked():
        part = compare_part(read_compare(tmp_path), "it", tmp_path)
    assert part.status == "running"
    assert [row[2] for row in table(part, "runs").rows] == ["finished", "running"]


def test_one_that_cannot_be_read_is_a_panel(tmp_path: Path) -> None:
    write_compare(tmp_path, version=7)
    part = compare_part(read_compare(tmp_path), "it", tmp_path)
    assert (part.status, part.sections) == ("unreadable", ())
    assert "version" in part.problem


@pytest.mark.parametrize("name", ["/{0}", "../../secret", "../x/../../secret", "{0}/../secret", ".."])
def test_a_run_far_from_the_comparison_is_neither_read_nor_linked_to(tmp_path: Path, name: str) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "runs" / "compare-theirs"
    for path in (secret, folder):
        path.mkdir(parents=True)
    row = {"client": 3, "steps": [{"step": 10, "accuracy": 0.123, "loss": 1.0, "tasks": 9}]}
    for path in (secret, tmp_path / "runs" / "fine"):
        path.mkdir(exist_ok=True)
        (path / "test.jsonl").write_text(json.dumps(row) + "\n")
    there = str(secret).removeprefix("/") if name == "/{0}" else str(secret)
    runs = [
        {"seed": 0, "run": name.format(there), "status": "finished"},
        {"seed": 1, "run": "../fine", "status": "finished"},
    ]
    arm = {"name": "theirs", "status": "finished", "runs": runs}
    write_compare(folder, arms=[arm])
    part = compare_part(read_compare(folder), "it", folder)
    assert part.problem == ""
    assert [row[1] for row in table(part, "spread").rows] == [1]
    cells = [row[-1] for row in table(part, "runs").rows]
    assert cells == [runs[0]["run"], Link("../fine", "../fine/")]


def test_a_folder_with_a_link_out_of_it_is_not_reported(tmp_path: Path) -> None:
    folder = tmp_path / "compare-theirs"
    folder.mkdir()
    write_compare(folder)
    require_folder(folder)
    (folder / "report.html").symlink_to("../diary")
    with pytest.raises(UsageError, match=r"report\.html is a link that leads out of the folder"):
        require_folder(folder)


@pytest.fixture
def unfinished(digits: Path, tmp_path: Path) -> Path:
    """A run after its fourth round: two looks at test clients, one at validation clients, no test."""
    run = Path(shutil.copytree(digits, tmp_path / "unfinished"))
    info = json.loads((run / "run.json").read_text())
    changes = {"status": "running", "final": None, "wall_seconds": None}
    (run / "run.json").write_text(json.dumps(info | changes))
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:4]))
    for left in ("test.jsonl", "examples.safetensors", "explanations.json"):
        (run / left).unlink()
    return run


def test_the_key_numbers_of_a_finished_run_are_those_of_its_test(digits: Path) -> None:
    first, *_, last = json.loads((digits / "run.json").read_text())["final"]
    numbers = dict(headline(read_run(digits)))
    before, after = (
        numbers[f"final accuracy, test clients, {when}"]
        for when in ("before adaptation", "after 3 steps")
    )
    assert before.startswith(f"{first['accuracy']:.3f} ± ")
    assert after.startswith(f"{last['accuracy']:.3f} ± ")
    assert numbers["rounds"] == "6 of 6"
    assert not [name for name in numbers if "latest" in name]


def test_the_key_numbers_of_a_running_run_are_the_latest_with_their_rounds(
    unfinished: Path,
) -> None:
    rows = lines(unfinished / "metrics.jsonl")
    with RunFolder(unfinished).locked():
        numbers = dict(headline(read_run(unfinished)))
    assert numbers["rounds"] == "4 of 6"
    trained = numbers["latest accuracy, training tasks, after adaptation, round 4"]
    assert trained == f"{rows[3]['accuracy']:.3f}"
    looked = max(row["round"] for row in rows if row["evaluation"])
    mean = rows[looked - 1]["evaluation"][-1]["accuracy"]
    said = numbers[f"latest accuracy, validation clients, after 3 steps, round {looked}"]
    assert said.split(" ± ")[0] == f"{mean:.3f}"
    assert not [name for name in numbers if "final" in name]


def test_a_run_without_a_test_yet_says_when_it_comes(unfinished: Path) -> None:
    def said() -> str:
        return section(run_part(read_run(unfinished), "it"), "adaptation").text

    with RunFolder(unfinished).locked():
        assert said() == "The held-out test runs after the last round."
    assert said() == (
        "The held-out test runs after the last round, and this run ended before it. "
        f"`fedmeta resume {unfinished}` continues it."
    )
    config = (unfinished / "config.toml").read_text()
    (unfinished / "config.toml").write_text(
        config.replace("test_clients = 5", "test_clients = 0").replace("track = 2", "track = 0")
    )
    assert said() == "No clients are held out for a test."


def test_a_run_without_a_round_yet_says_so(unfinished: Path) -> None:
    for log in ("metrics.jsonl", "clients.jsonl"):
        (unfinished / log).write_text("")
    with RunFolder(unfinished).locked():
        part = run_part(read_run(unfinished), "it")
    assert section(part, "learning").text == "No rounds logged yet."
    assert ("rounds", "0 of 6") in part.results
    assert [one.key for one in part.sections] == ["learning", "adaptation", "what"]


def test_a_comparison_neither_reads_nor_links_to_a_run_that_may_not_be_read(comparison: Path) -> None:
    kept = comparison.absolute() / "federated-seed1"
    part = compare_part(read_compare(comparison), "it", comparison, lambda path: path == kept)
    links = [row[-1] for row in table(part, "runs").rows if isinstance(row[-1], Link)]
    assert links == [Link("federated-seed1", "federated-seed1/")]
    assert [row[0] for row in table(part, "spread").rows] == ["federated"]
