"""A run's folder can be read in any state."""

import json
import random
import shutil
from pathlib import Path

import pytest

from fedmeta.config.seals import SEAL
from fedmeta.errors import UsageError
from fedmeta.experiment import RunFolder
from fedmeta.report.parts import run_part
from fedmeta.report.read import (
    RunReader,
    TestReader,
    number,
    read_compare,
    read_head,
    read_run,
    require_folder,
)
from fedmeta.report.render.html import render
from tests.report.made import lines, write_compare

ARM = {"name": "x", "status": "finished"}
RUNS = [{"seed": 0, "run": "r", "status": "finished"}] * 250


@pytest.fixture
def copy(sinusoid: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sinusoid, tmp_path / "copy"))


def test_a_whole_run_is_what_its_files_say(digits: Path) -> None:
    run = read_run(digits)
    assert (run.name, run.status, run.problem) == ("digits", "finished", None)
    assert run.config == RunFolder.open(digits).config
    assert run.metrics == lines(digits / "metrics.jsonl")
    assert run.clients.client.tolist() == [row["client"] for row in lines(digits / "clients.jsonl")]
    assert run.test == lines(digits / "test.jsonl")
    assert run.final == run.info["final"]


def test_the_head_is_the_same_without_the_logs(digits: Path) -> None:
    head, run = read_head(digits), read_run(digits)
    assert (head.config, head.info, head.status) == (run.config, run.info, run.status)
    assert (head.metrics, len(head.clients), head.test) == ([], 0, [])


def test_a_line_that_is_being_written_is_not_damage(copy: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"round": 7, "lo')
    run = read_run(copy)
    assert run.problem is None
    assert len(run.metrics) == 6


def damage(copy: Path, name: str, text: str | None) -> None:
    if text is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("run.json", None, "run.json is missing"),
        ("run.json", '{"status": "fini', "run.json is damaged"),
        ("run.json", "[1]", "run.json is damaged"),
        ("run.json", '{"state": 3}', "run.json: no status"),
        ("config.toml", None, "config.toml: "),
        ("config.toml", "task = ", "config.toml: "),
        ("config.toml", 'warp = 9\ntask = "sinusoid"', "config.toml: "),
        ("metrics.jsonl", None, "metrics.jsonl is missing"),
        ("metrics.jsonl", '{"round": 1}\nnonsense\n{"round": 3}\n', "metrics.jsonl: line 2 is damaged"),
        ("metrics.jsonl", '{"round": "one"}\n', "metrics.jsonl: line 1 is damaged"),
        ("clients.jsonl", '{"a":' * 100_000 + "\n", "clients.jsonl: line 1 is damaged"),
        ("test.jsonl", '{"steps": []}\n', "test.jsonl: line 1 is damaged"),
    ],
)
def test_damage_is_named_and_the_rest_is_read(
    copy: Path, name: str, text: str | None, problem: str
) -> None:
    damage(copy, name, text)
    run = read_run(copy)
    assert run.problem is not None
    assert run.problem.startswith(problem)
    assert str(copy) not in run.problem
    assert run.status == ("unreadable" if name == "run.json" else "finished")
    assert render("it", [run_part(run, "it")])


def test_rows_before_the_damage_are_kept(copy: Path) -> None:
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join([*rows[:4], "{}\n", *rows[4:]]))
    assert [row["round"] for row in read_run(copy).metrics] == [1, 2, 3, 4]


STEP = {"step": 1, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("row", "read"),
    [
        # Of 40 values: a list or a table counts as eight, and each comma as one.
        ({"round": 1, "loss": 0.5}, 4),
        ({"round": 1, "test": [STEP]}, 1),
        ({"round": 1, "x": [[], [], [], [], []]}, 0),
    ],
)
def test_of_a_log_with_too_many_values_the_first_lines_are_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, object], read: int
) -> None:
    monkeypatch.setattr("fedmeta.report.read.MOST_VALUES", 40)
    (copy / "metrics.jsonl").write_text(f"{json.dumps(row)}\n" * 9)
    seal = (copy / SEAL).read_bytes()
    (copy / SEAL).unlink()
    run = read_run(copy)
    assert len(run.metrics) == read
    assert run.problem == f"metrics.jsonl is too long: its first {read} lines are read"
    # Of one's own run ten times as much is read.
    (copy / SEAL).write_bytes(seal)
    monkeypatch.setattr("fedmeta.report.read.MOST_VALUES", 4)
    assert len(read_run(copy).metrics) == read


def test_the_test_logs_of_a_comparison_have_one_limit_together(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "run.json").write_text("{}")
    (copy / "test.jsonl").write_text(f"{json.dumps({'client': 1, 'steps': [STEP]})}\n" * 10)
    monkeypatch.setattr("fedmeta.report.read._MOST_OF_ALL", 600)
    reader = TestReader()
    # 10 rows of two tables, a list and two commas.
    assert [len(reader.read(copy)) for _ in range(4)] == [10, 10, 0, 0]
    assert reader.problem == "The runs' test.jsonl are too long: those of the first runs are read."
    assert TestReader().read(tmp_path / "none") == []


def reply(client: int, round_: int) -> str:
    return json.dumps({"round": round_, "client": client, "tasks": 1, "admitted": True}) + "\n"


def begun(copy: Path, rounds: int, replies: str) -> RunReader:
    """A run that goes on: that many rounds of two clients in the metrics, and replies as given."""
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"status": "running", "final": None}))
    (copy / "test.jsonl").unlink()
    (copy / "metrics.jsonl").write_text("".join(f'{{"round": {r}}}\n' for r in range(1, rounds + 1)))
    (copy / "clients.jsonl").write_text(replies)
    return RunReader(copy)


def test_the_clients_of_a_round_are_shown_when_its_metrics_are_there(copy: Path) -> None:
    """A reader comes between the two: the replies of round 2 wait, however often it comes."""
    first, second = reply(0, 1) + reply(1, 1), reply(0, 2) + reply(1, 2)
    with RunFolder(copy).locked():
        reader = begun(copy, 1, first + second)
        for _ in range(2):
            run = reader.read()
            assert (len(run.metrics), run.clients.round.tolist(), run.problem) == (1, [1, 1], None)
        with (copy / "metrics.jsonl").open("a") as log:
            log.write('{"round": 2}\n')
        run = reader.read()
        assert (len(run.metrics), run.clients.round.tolist()) == (2, [1, 1, 2, 2])


def test_before_the_first_round_no_client_was_asked(copy: Path) -> None:
    with RunFolder(copy).locked():
        run = begun(copy, 0, reply(0, 1)).read()
    assert (len(run.metrics), len(run.clients)) == (0, 0)


def test_a_killed_runs_incomplete_round_is_left_out(copy: Path) -> None:
    run = begun(copy, 2, reply(0, 1) + reply(0, 2) + reply(0, 3)).read()
    assert (run.status, run.clients.round.tolist()) == ("killed", [1, 2])


def test_where_the_metrics_are_damaged_all_replies_are_shown(copy: Path) -> None:
    reader = begun(copy, 1, reply(0, 1) + reply(0, 2))
    with (copy / "metrics.jsonl").open("a") as log:
        log.write("?\n")
    assert len(reader.read().clients) == 2


def test_a_reader_continues_where_it_stopped_and_keeps_earlier_rows(copy: Path) -> None:
    with RunFolder(copy).locked():
        reader = begun(copy, 1, reply(0, 1))
        before = reader.read()
        assert before.clients.client.tolist() == [0]
        with (copy / "clients.jsonl").open("a") as log:
            log.write(reply(7, 2))
        with (copy / "metrics.jsonl").open("a") as log:
            log.write('{"round": 2}\n')
        assert reader.read().clients.client.tolist() == [0, 7]
        assert (len(before.metrics), before.clients.client.tolist()) == (1, [0])


def test_a_running_run_without_a_process_was_killed(copy: Path) -> None:
    RunFolder(copy).update_info({"status": "running", "final": None})
    run = read_run(copy)
    assert (run.status, run.problem, run.final) == ("killed", None, [])


def test_files_of_any_content_are_reported(copy: Path) -> None:
    """Values of wrong types in every place, such as another version may write, break no page."""
    strange = [None, True, -1, 0, 10**400, 1e308, "x", [], {}, [1], {"step": 1}, [{"step": "a"}], "<b>"]
    whole = {
        name: (copy / name).read_text() for name in ("metrics.jsonl", "clients.jsonl", "test.jsonl")
    }
    info = json.loads((copy / "run.json").read_text())
    for seed in range(60):
        draw = random.Random(seed)
        for name, text in whole.items():
            rows = [json.loads(line) for line in text.splitlines()]
            for row in rows:
                row[draw.choice(list(row))] = draw.choice(strange)
            (copy / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (copy / "run.json").write_text(
            json.dumps(info | {draw.choice(list(info)): draw.choice(strange)})
        )
        assert render("it", [run_part(read_run(copy), "it")])


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 10**400, [1.0]])
def test_a_value_that_is_not_a_finite_number_is_none(value: object) -> None:
    assert number({"x": value}, "x") is None
    assert number({}, "x") is None


def test_a_path_that_is_not_a_run_is_refused_with_a_hint_of_the_nearest(digits: Path) -> None:
    assert require_folder(digits) == digits
    with pytest.raises(
        UsageError, match=r"no run or comparison at '.*digit': did you mean '.+/digits'\?"
    ):
        require_folder(digits.parent / "digit")
    with pytest.raises(UsageError, match=r"it is a folder of runs; name one, such as '.+/digits'"):
        require_folder(digits.parent)
    with pytest.raises(UsageError, match=rf"no run or comparison at .*: did you mean '{digits}'\?"):
        require_folder(digits / "metrics.jsonl")


def test_a_comparison_is_read(comparison: Path) -> None:
    found = read_compare(comparison)
    assert (found.status, found.problem) == ("failed", None)
    said = json.loads((comparison / "compare.json").read_text())
    assert found.record is not None
    assert found.record.model_dump(exclude_unset=True) == said


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 2}, "compare.json: it is of version 2, written by fedmeta "),
        ({"kind": "bench"}, "compare.json: kind: "),
        ({"arms": [{"name": "x"}]}, "compare.json: arms.0.status: "),
        ({"arms": [ARM] * 251}, "compare.json: arms: must have at most 250 entries"),
        ({"seeds": [0] * 251}, "compare.json: seeds: must have at most 250 entries"),
        ({"arms": [ARM | {"runs": RUNS}] * 41}, "compare.json: arms: more than 10,000 runs"),
        ({"measure": ["speed"]}, "compare.json: measure: "),
        ({"arms": None}, "compare.json: arms: "),
    ],
)
def test_a_comparison_of_another_version_says_so(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    write_compare(tmp_path, **changes)
    found = read_compare(tmp_path)
    assert (found.status, found.record) == ("unreadable", None)
    assert found.problem is not None
    assert found.problem.startswith(problem)


def test_a_comparison_that_is_half_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text('{"kind": "comp')
    assert read_compare(tmp_path).problem == "compare.json is damaged"
