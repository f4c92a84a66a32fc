"""What the page says of runs is what their files say."""

import json
from pathlib import Path

import pytest

from fedmeta.experiment import RunFolder
from fedmeta.report.read import RunFiles, read_head
from fedmeta.serve.app import Site
from fedmeta.serve.index import UnknownError
from tests.report.made import EVIL
from tests.serve.serving import copy, edit, rows


def site(root: Path) -> Site:
    return Site(root, lambda: False)


def line(root: Path, id_: str) -> dict[str, object]:
    return next(row for row in site(root).runs()["rows"] if row["id"] == id_)


def info(root: Path, id_: str) -> dict[str, object]:
    return dict(json.loads((root / id_ / "run.json").read_text()))


def test_a_line_of_the_list_is_what_the_files_say(gallery: Path) -> None:
    said, known = line(gallery, "digits-001"), info(gallery, "digits-001")
    last = rows(gallery / "digits-001" / "metrics.jsonl")[-1]
    for key in ("experiment", "seed", "status", "started"):
        assert said[key] == known[key]
    assert said["seconds"] == known["wall_seconds"]
    assert (said["done"], said["rounds"]) == (last["round"], 6)
    assert said["last"] == {"accuracy": last["accuracy"], "loss": last["loss"]}
    assert (said["algorithm"], said["training"], said["task"]) == ("maml", "federated", "digits")
    final = known["final"][-1]
    keys = ("step", "accuracy", "ci95", "loss", "loss_ci95", "diverged")
    assert said["final"] == {key: final[key] for key in keys} | {"over": "clients"}


@pytest.mark.parametrize(
    ("id_", "status", "problem"),
    [
        ("no-json", "unreadable", "run.json is damaged"),
        ("half-written", "killed", None),
        ("of-another-version", "unreadable", "config.toml: unknown key 'warp'"),
        ("nothing-but-a-log", "unreadable", "run.json is missing"),
        ("linked-file", "unreadable", "report.html is a link that leads out of the folder of runs"),
        (EVIL.replace("/", "|"), "failed", EVIL),
    ],
)
def test_a_run_that_cannot_be_read_says_why(
    gallery: Path, id_: str, status: str, problem: str | None
) -> None:
    said = line(gallery, id_)
    assert said["status"] == status
    assert str(said["problem"]).startswith(str(problem))


def test_the_list_reads_again_only_what_has_changed(own: Path) -> None:
    for number in range(199):
        copy(own / "one", own / f"run-{number:03d}")
    shown = site(own)
    assert len(shown.runs()["rows"]) == 200
    assert shown.summaries.read == 200
    shown.runs()
    assert shown.summaries.read == 200
    edit(own / "run-007", status="failed", error="the disk is full")
    shown.index._seen = 0.0
    changed = next(row for row in shown.runs()["rows"] if row["id"] == "run-007")
    assert (shown.summaries.read, changed["problem"]) == (201, "the disk is full")


def test_the_list_reads_the_end_of_a_log_alone(own: Path) -> None:
    """A damaged line in the middle of a long log is the run's page's business."""
    log = own / "one" / "metrics.jsonl"
    end = log.read_text()
    log.write_text("?" * 1_000_000 + "\n" + end)
    assert line(own, "one")["done"] == 6


def curve(view: dict[str, object], title: str, name: str) -> tuple[list[float], list[float]]:
    chart = next(one for one in view["charts"] if one["title"] == title)  # type: ignore[attr-defined]
    trace = next(one for one in chart["figure"]["data"] if one.get("name") == name)
    return trace["x"], trace["y"]


def test_curves_are_the_values_of_the_files(gallery: Path) -> None:
    log = rows(gallery / "digits-001" / "metrics.jsonl")
    view = site(gallery).curves("digits-001", 1000)
    assert view["rounds"] == 6
    for measure in ("accuracy", "loss"):
        title = f"{measure.capitalize()} by round"
        x, y = curve(view, title, "training, after adaptation")
        assert (list(x), list(y)) == ([row["round"] for row in log], [row[measure] for row in log])
        looks = [(row["round"], row["test"][-1][measure]) for row in log if row["test"]]
        x, y = curve(view, title, "test clients, 3 steps")
        assert list(zip(x, y, strict=True)) == looks


def test_a_curve_of_10000_rounds_is_sent_with_few_points_and_its_extremes(own: Path) -> None:
    log = own / "one" / "metrics.jsonl"
    row = rows(log)[-1] | {"evaluation": None, "test": None}
    with log.open("a") as file:
        for round_ in range(7, 10_001):
            loss = 99.0 if round_ == 6789 else -7.0 if round_ == 4321 else 1 + (round_ % 10) / 100
            file.write(json.dumps(row | {"round": round_, "loss": loss}) + "\n")
    shown = site(own)
    view = shown.curves("one", 1200)
    chart = next(one for one in view["charts"] if one["title"] == "Loss by round")
    assert view["rounds"] == 10_000
    assert chart["points"]["of"] == 10_000
    assert chart["points"]["shown"] <= 1200
    x, y = curve(view, "Loss by round", "training, after adaptation, each round")
    assert (x[0], x[-1]) == (1, 10_000)
    assert (max(y), x[y.index(99.0)]) == (99.0, 6789)
    assert (min(y), x[y.index(-7.0)]) == (-7.0, 4321)
    assert sum(len(one["y"]) for chart in view["charts"] for one in chart["figure"]["data"]) < 12_000
    assert len(json.dumps(view)) < 600_000


def test_a_log_is_read_once_however_often_its_curves_are_asked_for(own: Path) -> None:
    shown = site(own)
    for _ in range(5):
        shown.curves("one", 1000)
    read = shown._open.get(shown.require("one")).metrics.bytes_read
    assert read < (own / "one" / "metrics.jsonl").stat().st_size + 5 * 300


def test_a_run_that_was_resumed_shows_its_new_rounds(own: Path) -> None:
    log = own / "one" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    shown = site(own)
    assert shown.curves("one", 1000)["rounds"] == 6
    log.write_text("".join(lines[:3]))
    assert shown.curves("one", 1000)["rounds"] == 3
    log.write_text("".join(lines[:5]))
    assert shown.curves("one", 1000)["rounds"] == 5


@pytest.mark.parametrize("id_", ["bad-line", "half-written", "no-json", "of-another-version"])
def test_what_is_left_of_a_damaged_run_is_shown(gallery: Path, id_: str) -> None:
    view = site(gallery).curves(id_, 1000)
    assert view["rounds"] == (2 if id_ == "bad-line" else 6)
    problem = site(gallery).run(id_)["problem"]
    assert (problem is None) == (id_ == "half-written")
    if id_ == "bad-line":
        assert problem == "metrics.jsonl: line 3 is damaged"


def test_a_run_with_nothing_but_a_damaged_log_is_shown(gallery: Path) -> None:
    shown = site(gallery)
    assert shown.curves("nothing-but-a-log", 1000) == {"rounds": 0, "charts": []}
    assert shown.run("nothing-but-a-log")["problem"] == "run.json is missing"
    assert shown.clients("nothing-but-a-log")["problem"] == "clients.jsonl is missing"


def test_the_ledger_says_how_far_the_chain_came(gallery: Path) -> None:
    ledger = site(gallery).run("chained")["ledger"]
    assert ["Rounds recorded on the chain", "2 of 2 frozen"] in [list(fact) for fact in ledger["facts"]]
    assert ledger["text"].startswith("Not audited yet: `fedmeta chain audit ")
    assert site(gallery).run("digits-001")["ledger"] is None


def test_a_journal_that_is_damaged_breaks_nothing(gallery: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    (copy(gallery / "chained", root / "one") / "chain" / "journal.sqlite").write_bytes(
        b"no journal" * 99
    )
    assert site(root).run("one")["ledger"]["warning"]


def test_selected_runs_stand_beside_each_other(gallery: Path) -> None:
    view = site(gallery).selected(["digits-001", "half-written"], 1000)
    final = info(gallery, "digits-001")["final"]
    table = view["table"]
    assert table["columns"] == ["run", "status", "rounds", "before", "1 steps", "3 steps", "seconds"]
    assert table["rows"][0][3].startswith(f"{final[0]['accuracy']:.3f} ± ")
    assert table["rows"][1][3:6] == ["–", "–", "–"]
    assert [one["name"] for one in view["charts"][0]["figure"]["data"] if one.get("name")] == [
        "digits-001",
        "half-written",
    ]
    assert view["warning"] is None


def test_runs_of_different_tasks_are_marked(gallery: Path) -> None:
    view = site(gallery).selected(["digits-001", "chained"], 1000)
    assert view["warning"] == "These runs are of different tasks: digits, sinusoid."
    assert view["charts"][0]["title"].startswith("Loss by round")


def test_a_comparison_shows_its_arms_and_links_the_runs_that_are_there(gallery: Path) -> None:
    known = json.loads((gallery / "compare-quickstart" / "compare.json").read_text())
    view = site(gallery).comparison("compare-quickstart")
    assert [arm["name"] for arm in view["arms"]] == [arm["name"] for arm in known["arms"]]
    assert view["arms"][1]["runs"][0]["id"] == "compare-quickstart/federated-seed0"
    outcome = next(one for one in view["sections"] if one["key"] == "outcome")
    mean = known["arms"][1]["final"][-1]["mean"]
    assert outcome["tables"][0]["rows"][1][-1].startswith(f"{mean:.3f} ± ")


def test_a_comparison_reads_no_run_outside_the_folder(gallery: Path, tmp_path: Path) -> None:
    """An arm's run that leads elsewhere is named, and its results are not read."""
    root = tmp_path / "runs"
    folder = copy(gallery / "compare-quickstart", root / "compare")
    outside = copy(gallery / "digits-001", tmp_path / "outside")
    data = json.loads((folder / "compare.json").read_text())
    for arm in data["arms"]:
        for place in arm["runs"]:
            place["run"] = str(outside) if place["seed"] else "../../outside"
    (folder / "compare.json").write_text(json.dumps(data))
    view = site(root).comparison("compare")
    assert {run["id"] for arm in view["arms"] for run in arm["runs"]} == {None}
    assert "spread" not in [section["key"] for section in view["sections"]]


def test_a_comparison_that_is_half_written_says_so(gallery: Path, tmp_path: Path) -> None:
    folder = copy(gallery / "compare-quickstart", tmp_path / "runs" / "compare")
    whole = (folder / "compare.json").read_text()
    (folder / "compare.json").write_text(whole[: len(whole) // 2])
    view = site(tmp_path / "runs").comparison("compare")
    assert (view["status"], view["problem"]) == ("unreadable", "compare.json is damaged")
    assert view["arms"] == []


def test_a_comparison_that_was_killed_says_so(gallery: Path, tmp_path: Path) -> None:
    folder = copy(gallery / "compare-quickstart", tmp_path / "runs" / "compare")
    data = json.loads((folder / "compare.json").read_text())
    first, *others = data["arms"]
    first = first | {"status": "running", "runs": [run | {"status": "running"} for run in first["runs"]]}
    data |= {"status": "running", "arms": [first, *others]}
    (folder / "compare.json").write_text(json.dumps(data))

    def shown() -> list[str]:
        served = site(tmp_path / "runs").comparison("compare")
        arm, *_ = served["arms"]
        return [served["status"], arm["status"], *(run["status"] for run in arm["runs"])]

    assert line(tmp_path / "runs", "compare")["status"] == "killed"
    assert set(shown()) == {"killed"}
    with RunFolder(folder).locked():
        assert line(tmp_path / "runs", "compare")["status"] == "running"
        assert set(shown()) == {"running"}


def test_a_run_whose_files_lead_elsewhere_is_not_read(gallery: Path) -> None:
    shown = site(gallery)
    for ask in (shown.run, shown.clients, shown.report, lambda id_: shown.curves(id_, 1000)):
        with pytest.raises(UnknownError, match=r"report\.html is a link that leads out"):
            ask("linked-file")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", '{"status": "finished", "seed": ' + "7" * 5000 + "}"),
        ("run.json", '{"status": "finished", "final": ' + "[" * 3000 + "]" * 3000 + "}"),
        ("config.toml", ".".join(["x"] * 20_000) + " = 1\n"),
        ("config.toml", "rounds = " + "8" * 6000 + "\n"),
        ("metrics.jsonl", '{"round": ' + "6" * 5000 + "}\n"),
        ("metrics.jsonl", '{"round": 1, "loss": ' + "[" * 3000 + "]" * 3000 + "}\n"),
    ],
)
def test_one_bad_run_is_a_row_and_the_others_are_shown(own: Path, name: str, text: str) -> None:
    bad = copy(own / "one", own / "bad")
    (bad / name).write_text(text)
    site = Site(own, lambda: False)
    rows = {row["id"]: row for row in site.runs()["rows"]}
    assert rows["one"]["status"] == "finished"
    assert rows["one"]["problem"] is None
    problem = rows["bad"]["problem"]
    assert name in problem
    assert "\n" not in problem
    assert len(problem) < 500
    json.dumps([site.run("bad"), site.clients("bad"), site.curves("bad", 100)])


def test_what_nobody_foresaw_in_one_folder_leaves_the_list(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(own / "one", own / "bad")
    read = read_head

    def broken(path: Path) -> RunFiles:
        if path.name == "bad":
            raise OverflowError("\x1b[2J too large")
        return read(path)

    monkeypatch.setattr("fedmeta.serve.summary.read_head", broken)
    rows = {row["id"]: row for row in Site(own, lambda: False).runs()["rows"]}
    assert rows["one"]["status"] == "finished"
    assert rows["bad"]["problem"] == "it cannot be read (OverflowError): \\x1b[2J too large"


def test_more_clients_than_a_page_can_list_are_counted(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.serve.clients.MOST_CLIENTS", 5)
    with (own / "one" / "clients.jsonl").open("w") as log:
        log.writelines(
            f'{{"round": 1, "client": {n}, "admitted": true, "tasks": 1}}\n' for n in range(70)
        )
    said = Site(own, lambda: False).clients("one")
    assert len(said["clients"]) == 5
    assert said["updates"] == 70
    assert "more clients than the 5" in said["problem"]
