"""The live page shows what the runs' files contain."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedmeta.experiment import RunFolder
from fedmeta.report.read import RunFiles, read_head
from fedmeta.report.tables import shown as shown_number
from fedmeta.report.writing import write_report
from fedmeta.serve.index import UnknownError
from fedmeta.serve.site import Site
from tests.experiment.helpers import TINY
from tests.report.made import EVIL, make
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
    # Which line of config.toml it is depends on how many keys there are.
    assert re.sub(r"line \d+: ", "", str(said["problem"])).startswith(str(problem))


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


def page(root: Path, id_: str) -> str:
    return site(root).page(id_).text


def article(text: str) -> str:
    return text[text.index("<article ") : text.index("</article>")]


def rounds(text: str) -> str:
    found = re.search(r"<dt>rounds</dt><dd>(.*?)</dd>", text)
    return found[1] if found else ""


def figures(text: str) -> dict[str, dict[str, Any]]:
    found = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def curve(text: str, chart: str, name: str) -> tuple[list[float], list[float]]:
    trace = next(one for one in figures(text)[chart]["data"] if one.get("name") == name)
    return trace["x"], trace["y"]


@pytest.mark.parametrize("id_", ["digits-001", "chained", "half-written", "bad-line", "no-json"])
def test_a_runs_page_has_exactly_the_sections_of_its_report(
    gallery: Path, tmp_path: Path, id_: str
) -> None:
    report = write_report([gallery / id_], tmp_path / "report.html").report.read_text()
    shown = page(gallery, id_)
    assert article(shown) == article(report)
    assert figures(shown) == figures(report)


def test_a_comparisons_page_has_exactly_the_sections_of_its_report(own: Path, gallery: Path) -> None:
    folder = copy(gallery / "compare-quickstart", own / "compare")
    for arm in json.loads((folder / "compare.json").read_text())["arms"]:
        for run in arm["runs"]:
            # A page reads and links to runs that are listed, and a run has at least one of its files.
            (folder / run["run"]).mkdir(exist_ok=True)
            (folder / run["run"] / "metrics.jsonl").touch()
    shown = page(own, "compare")
    assert article(shown) == article(write_report([folder]).report.read_text())
    assert "federated-seed0/" in article(shown)


@pytest.fixture(scope="module")
def staked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose clients stake: client 1 poisons, client 2 copies client 0."""
    root = tmp_path_factory.mktemp("staked") / "runs"
    root.mkdir()
    chain = {"provider": "embedded", "staking": {"enabled": True, "stake": 400, "slash_after": 1}}
    behaviours = [
        {"kind": "poison", "clients": [1], "factor": 1e9},
        {"kind": "copy", "clients": [2], "of": 0},
    ]
    more = {"rounds": 3, "cohort": 6, "chain": chain, "behaviours": behaviours}
    make(root / "one", TINY | more | {"incentives": {"rule": "tasks"}})
    return root


@pytest.mark.slow
def test_payments_behaviours_and_stakes_are_those_of_the_report_and_the_files(
    staked: Path, tmp_path: Path
) -> None:
    shown = article(page(staked, "one"))
    report = write_report([staked / "one"], tmp_path / "report.html").report.read_text()
    for key in ("rewards", "ledger"):
        assert section(shown, key) == section(report, key)
    log = rows(staked / "one" / "clients.jsonl")
    for client, behaviour in ((0, ""), (1, "poison"), (2, "copy"), (5, "")):
        tokens = sum(row["reward"] or 0 for row in log if row["client"] == client) / 1e6
        asked = sum(row["client"] == client for row in log)
        found = cells(shown, "rewards", client)
        assert found[:3] == [str(client), behaviour, shown_number(tokens)]
        assert found[4] == str(asked)
    # Half of the stake is lost with the first refusal that is the client's own fault.
    assert cells(shown, "ledger", 1)[:5] == ["1", "poison", "400", "200", "200"]
    assert cells(shown, "ledger", 3)[:5] == ["3", "", "400", "0", "400"]


def section(text: str, key: str) -> str:
    found = re.search(rf'<section id="one-{key}".*?</section>', text, re.DOTALL)
    assert found is not None
    return found[0]


def cells(text: str, key: str, client: int) -> list[str]:
    """The cells of a client's line in a section's table."""
    lines = re.findall(r"<tr>(.*?)</tr>", section(text, key).replace("\n", ""))
    each = [re.findall(r"<td[^>]*>(.*?)</td>", one) for one in lines]
    return next(one for one in each if one and one[0] == str(client))


def test_curves_are_the_values_of_the_files(gallery: Path) -> None:
    log = rows(gallery / "digits-001" / "metrics.jsonl")
    text = page(gallery, "digits-001")
    assert rounds(text) == "6 of 6"
    for measure in ("accuracy", "loss"):
        chart = f"digits-001-learning-{measure}"
        x, y = curve(text, chart, "training, after adaptation")
        assert (x, y) == ([row["round"] for row in log], [row[measure] for row in log])
        looks = [(row["round"], row["test"][-1][measure]) for row in log if row["test"]]
        x, y = curve(text, chart, "test clients, 3 steps")
        assert list(zip(x, y, strict=True)) == looks


def test_a_curve_of_10000_rounds_is_sent_with_few_points_and_its_extremes(own: Path) -> None:
    log = own / "one" / "metrics.jsonl"
    row = rows(log)[-1] | {"evaluation": None, "test": None}
    with log.open("a") as file:
        for round_ in range(7, 10_001):
            loss = 99.0 if round_ == 6789 else -7.0 if round_ == 4321 else 1 + (round_ % 10) / 100
            file.write(json.dumps(row | {"round": round_, "loss": loss}) + "\n")
    text = page(own, "one")
    assert rounds(text) == "10,000 of 6"
    x, y = curve(text, "one-learning-loss", "training, after adaptation, each round")
    assert (x[0], x[-1]) == (1, 10_000)
    assert len(x) <= 1500
    assert (max(y), x[y.index(99.0)]) == (99.0, 6789)
    assert (min(y), x[y.index(-7.0)]) == (-7.0, 4321)
    assert len(text) < 1_200_000


def test_a_page_is_rendered_once_for_each_change_of_its_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.serve.pages._REST", 0)
    shown = site(own)
    for _ in range(100):
        assert rounds(shown.page("one").text) == "6 of 6"
    assert shown.pages.made == 1
    log = own / "one" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    shown.index._seen = 0.0
    for _ in range(100):
        assert rounds(shown.page("one").text) == "5 of 6"
    assert shown.pages.made == 2


def test_a_log_is_read_once_however_often_its_run_is_rendered(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.serve.pages._REST", 0)
    shown = site(own)
    for place in range(5):
        edit(own / "one", seed=place)
        shown.index._seen = 0.0
        assert f"<dt>Seed</dt><dd>{place}</dd>" in shown.page("one").text
    reader = shown._open._get(shown.require("one")).reader
    assert reader._metrics.bytes_read < (own / "one" / "metrics.jsonl").stat().st_size + 5 * 300
    assert reader._clients.bytes_read < (own / "one" / "clients.jsonl").stat().st_size + 5 * 300


@pytest.mark.parametrize("id_", ["bad-line", "half-written", "no-json", "of-another-version"])
def test_the_readable_part_of_a_damaged_run_is_shown(gallery: Path, id_: str) -> None:
    text = page(gallery, id_)
    assert rounds(text).split(" ")[0] == ("2" if id_ == "bad-line" else "6")
    assert ("cannot be read completely" in text) == (id_ != "half-written")
    assert ("metrics.jsonl: line 3 is damaged" in text) == (id_ == "bad-line")


def test_a_run_with_nothing_but_a_damaged_log_is_shown(gallery: Path) -> None:
    text = page(gallery, "nothing-but-a-log")
    assert rounds(text) == "0"
    assert figures(text) == {}
    assert "run.json is missing" in text


def test_an_unexpected_error_in_one_run_is_shown_on_its_page(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OverflowError("too <b>large")

    monkeypatch.setattr("fedmeta.serve.site.run_part", broken)
    assert "it cannot be read (OverflowError): too &lt;b&gt;large" in page(own, "one")


def test_a_journal_that_is_damaged_breaks_nothing(gallery: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    (copy(gallery / "chained", root / "one") / "chain" / "journal.sqlite").write_bytes(
        b"no journal" * 99
    )
    assert re.search(r'class="warning"[^>]*>[^<]*damaged', page(root, "one"))


@pytest.mark.parametrize(
    ("status", "links"),
    [
        ("finished", ["fedmeta report {}"]),
        ("failed", ["fedmeta resume {}", "fedmeta report {}"]),
        ("running", ["fedmeta resume {}", "fedmeta report {}"]),
    ],
)
def test_a_page_names_the_next_commands(own: Path, status: str, links: list[str]) -> None:
    """No process holds the run, so one marked as running was killed."""
    edit(own / "one", status=status)
    head = page(own, "one").split("<article ")[0]
    assert re.findall(r"<code>(.*?)</code>", head) == [link.format(own / "one") for link in links]
    (own / "one" / "report.html").write_text("a report")
    assert '<a href="/report/one">Report</a>' in page(own, "one")


def test_a_run_of_a_comparison_leads_back_to_it(gallery: Path) -> None:
    text = page(gallery, "compare-quickstart/federated-seed0")
    assert '<a href="/runs/compare-quickstart/">Comparison compare-quickstart</a>' in text


def test_selected_runs_are_shown_side_by_side(gallery: Path) -> None:
    text = site(gallery).selected(["digits-001", "half-written"]).text
    final = info(gallery, "digits-001")["final"]
    assert f">{final[0]['accuracy']:.3f} ± " in text  # type: ignore[index]
    assert '<a href="/runs/half-written/">half-written</a>' in text
    names = [one["name"] for one in figures(text)["runs-curves"]["data"] if one.get("name")]
    assert names == ["digits-001", "half-written"]
    assert "different tasks" not in text


def test_runs_of_different_tasks_are_marked(gallery: Path) -> None:
    text = site(gallery).selected(["digits-001", "chained"]).text
    assert "These runs are of different tasks: digits, sinusoid." in text
    assert "Loss by round" in text


def test_unreadable_files_of_selected_runs_are_reported(gallery: Path) -> None:
    text = site(gallery).selected(["digits-001", "no-json"]).text
    assert "no-json: run.json is damaged" in text


def test_a_comparison_reads_no_run_outside_the_folder(gallery: Path, tmp_path: Path) -> None:
    """An arm's run that leads elsewhere is named, and its results are not read."""
    root = tmp_path / "runs"
    folder = copy(gallery / "compare-quickstart", root / "compare")
    outside = copy(gallery / "digits-001", tmp_path / "outside")
    beside = copy(gallery / "digits-001", root / "linked")
    (beside / "report.html").symlink_to(outside / "config.toml")
    data = json.loads((folder / "compare.json").read_text())
    for arm in data["arms"]:
        for place in arm["runs"]:
            place["run"] = str(outside) if place["seed"] else "../../outside"
    data["arms"][0]["runs"][0]["run"] = "../linked"
    (folder / "compare.json").write_text(json.dumps(data))
    text = page(root, "compare")
    assert "../../outside" in text
    assert not re.findall(r'<td><a href="', text)
    assert "compare-spread" not in text


def test_a_comparison_that_is_half_written_says_so(gallery: Path, tmp_path: Path) -> None:
    folder = copy(gallery / "compare-quickstart", tmp_path / "runs" / "compare")
    whole = (folder / "compare.json").read_text()
    (folder / "compare.json").write_text(whole[: len(whole) // 2])
    text = page(tmp_path / "runs", "compare")
    assert 'class="status unreadable"' in text
    assert "compare.json is damaged" in text


def test_a_comparison_that_was_killed_says_so(
    gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.serve.pages._REST", 0)
    folder = copy(gallery / "compare-quickstart", tmp_path / "runs" / "compare")
    data = json.loads((folder / "compare.json").read_text())
    first, *others = data["arms"]
    first = first | {"status": "running", "runs": [run | {"status": "running"} for run in first["runs"]]}
    data |= {"status": "running", "arms": [first, *others]}
    (folder / "compare.json").write_text(json.dumps(data))
    shown = site(tmp_path / "runs")

    def statuses() -> list[str]:
        return re.findall(r">(killed|running)<", shown.page("compare").text)

    assert line(tmp_path / "runs", "compare")["status"] == "killed"
    assert set(statuses()) == {"killed"}
    with RunFolder(folder).locked():
        assert line(tmp_path / "runs", "compare")["status"] == "running"
        assert set(statuses()) == {"running"}


def test_a_run_whose_files_lead_elsewhere_is_not_read(gallery: Path) -> None:
    shown = site(gallery)
    for ask in (shown.page, shown.report, lambda id_: shown.selected([id_])):
        with pytest.raises(UnknownError, match=r"report\.html is a link that leads out"):
            ask("linked-file")


@pytest.mark.parametrize(
    "name",
    [
        "examples.safetensors",
        "explanations.json",
        "streams.json",
        "config.seal",
        "test.jsonl",
        "clients.jsonl",
    ],
)
def test_no_file_that_a_page_reads_is_read_from_elsewhere(own: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("{}")
    (own / "one" / name).unlink(missing_ok=True)
    (own / "one" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UnknownError, match=rf"{name} is a link that leads out"):
        site(own).page("one")


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
    assert name in site.page("bad").text


def test_an_unexpected_error_in_one_folder_leaves_the_list_intact(
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
