"""Charts and tables as CSV and PNG files, and where a report is written."""

import base64
import csv
import hashlib
import html
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fedmeta.errors import UsageError
from fedmeta.report.charts import Chart, Heatmap, Series
from fedmeta.report.page import Figure, Part, Section
from fedmeta.report.render import png as pictures
from fedmeta.report.render.csv_files import write_sheets
from fedmeta.report.render.png import draw
from fedmeta.report.sections.payment import Paid, rounds_table
from fedmeta.report.tables import Bytes, Interval, Link, Table, shown
from fedmeta.report.writing import write_report
from tests.report.made import lines


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_report_changes_nothing_else_in_a_run(digits: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits, tmp_path / "digits"))
    before = tree(copy)
    written = write_report([copy])
    assert written.report == copy / "report.html"
    after = tree(copy)
    assert after.pop("report.html")
    assert after == before


def test_numbers_in_csv_files_are_the_files_own_to_the_last_digit(digits: Path, tmp_path: Path) -> None:
    write_report([digits], tmp_path / "r.html", csv=tmp_path / "csv")
    metrics = lines(digits / "metrics.jsonl")
    found = rows(tmp_path / "csv" / "digits-rounds.csv")
    for key in ("loss", "accuracy_before", "update_norm", "bytes_up", "seconds"):
        assert [float(row[key]) for row in found] == [row[key] for row in metrics]
    curve = rows(tmp_path / "csv" / "digits-learning-accuracy.csv")
    after = [float(row["accuracy"]) for row in curve if row["series"] == "training, after adaptation"]
    assert after == [row["accuracy"] for row in metrics]
    final = json.loads((digits / "run.json").read_text())["final"]
    steps = rows(tmp_path / "csv" / "digits-adaptation-loss.csv")
    assert [float(row["high"]) for row in steps] == [at["loss"] + at["loss_ci95"] for at in final]
    clients = rows(tmp_path / "csv" / "digits-test-clients-accuracy.csv")
    test = sorted(lines(digits / "test.jsonl"), key=lambda row: row["client"])
    assert [float(row["3 steps"]) for row in clients] == [row["steps"][-1]["accuracy"] for row in test]
    assert [float(row["3 steps ci95"]) for row in clients] == [
        row["steps"][-1]["tasks_ci95"] for row in test
    ]
    rewards = rows(tmp_path / "csv" / "digits-contributions.csv")
    logged = lines(digits / "clients.jsonl")
    assert [float(row["reward_tokens"] or 0) * 1e6 for row in rewards] == pytest.approx(
        [row["reward"] or 0 for row in logged]
    )


def test_tables_with_a_row_for_each_line_of_a_log_are_made_for_csv_files_alone(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(paid: Paid) -> Table:
        made.append(len(paid.rows))
        return rounds_table(paid)

    monkeypatch.setattr("fedmeta.report.sections.payment.rounds_table", counted)
    write_report([digits], tmp_path / "r.html")
    assert made == []
    write_report([digits], tmp_path / "r.html", csv=tmp_path / "csv")
    assert made == [len(lines(digits / "clients.jsonl"))]


def test_long_curves_are_whole_in_csv_files(tmp_path: Path) -> None:
    chart = Chart("k", "t", "round", "y", [Series("s", list(range(10_000)), [0.5] * 10_000)])
    part = Part("n", "run", "finished", sections=[Section("s", "s", figures=[Figure(chart)])], key="n")
    (path,) = write_sheets(tmp_path, [part])
    assert len(rows(path)) == 10_000


def test_intervals_take_two_columns_and_bytes_are_not_rounded(tmp_path: Path) -> None:
    table = Table(
        "t",
        "t",
        ["a", "b", "c"],
        [[Interval(0.5, 0.125), Bytes(1_234_567), Link("x", "y")], [Interval(0.25, None), None, "=1,2"]],
    )
    part = Part("n", "run", "finished", sections=[Section("s", "s", tables=[table])], key="n")
    (path,) = write_sheets(tmp_path, [part])
    assert path.read_text().splitlines() == ["a,a ci95,b,c", "0.5,0.125,1234567,x", '0.25,,,"\'=1,2"']


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Interval(0.75, 0.0104), "0.750 ± 0.010"),
        (Interval(0.75, None), "0.750"),
        (Interval(None, None), "–"),
        (Interval(40.0, 5.5), "40.0 ± 5.5"),
        (Interval(-0.0008, 0.00001), "-0.001 ± 0.000"),
        (Interval(0.0001, 0.00001), "0.0001 ± 1e-05"),
        (Interval(1500.0, 20.4), "1,500 ± 20"),
        (1500.0, "1,500"),
        (1.0, "1.000"),
        (0, "0"),
        (0.00012, "0.00012"),
        (123456.78, "123,456.8"),
        (3.25e-7, "3.25e-07"),
        (2.5e16, "2.5e+16"),
        (Bytes(1_234_567), "1.23 MB"),
        (None, "–"),
    ],
)
def test_values_are_formatted(cell: Interval | Bytes | float | None, text: str) -> None:
    assert shown(cell) == text


def test_every_chart_is_a_picture(comparison: Path, tmp_path: Path) -> None:
    written = write_report([comparison], tmp_path / "r.html", png=tmp_path / "png")
    charts = sum(len(part.charts) for part in written.parts)
    assert len(written.pictures) == charts == len(list((tmp_path / "png").glob("*.png")))
    for path in written.pictures:
        with Image.open(path) as image:
            assert image.width == 1050
            assert len(image.convert("L").getcolors(256) or []) > 3


def test_names_that_matplotlib_would_read_as_formulas(tmp_path: Path) -> None:
    odd = "$x^$ _y 漢 <b>"
    draw(
        Chart("k", odd, odd, odd, [Series(odd, [1, 2], [None, 1.0])], line=1.0, line_name=odd),
        tmp_path / "a.png",
    )
    draw(Heatmap("k", odd, odd, odd, [1.0], [odd], [[None, 1.0][1:]], odd), tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_without_matplotlib_one_line_says_what_to_install(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'fedmeta\[png\]'"):
        write_report([digits], tmp_path / "r.html", png=tmp_path / "png")
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_one_name_have_places_of_their_own(digits: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(digits, tmp_path / "b" / "digits"))
    written = write_report([digits, other], tmp_path / "r.html", csv=tmp_path / "csv")
    assert [part.key for part in written.parts] == ["digits", "digits-2"]
    assert len(written.sheets) == len(set(written.sheets)) == len(list((tmp_path / "csv").iterdir()))


def test_a_page_that_cannot_be_written_is_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder: name a file, such as"):
        write_report([digits], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write to"):
        write_report([digits], tmp_path / "file" / "r.html")
    for kind in ("png", "csv"):
        with pytest.raises(UsageError, match=f"--{kind} .*file is a file: name a folder"):
            write_report([digits], tmp_path / "r.html", **{kind: tmp_path / "file"})
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ('=HYPERLINK("http://evil")', '\'=HYPERLINK("http://evil")'),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("@SUM(1+9)", "'@SUM(1+9)"),
        ("-2+3+cmd", "'-2+3+cmd"),
        ("\t=1+1", "'\t=1+1"),
        (" =1+1", "' =1+1"),
        ("＝1+1", "'＝1+1"),
        ("\r=1", "\\x0d=1"),
        ("-0.25", "-0.25"),
        ("+1e5", "+1e5"),
        ("0x=abc", "0x=abc"),
        ("client 3", "client 3"),
    ],
)
def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path, name: str, kept: str) -> None:
    """Names come from clients, files and configs; numbers stay numbers."""
    table = Table("t", "t", [name, "value"], [[name, -0.25], [Link(name, "x"), -3]])
    (path,) = write_sheets(
        tmp_path, [Part("p", "run", "finished", sections=[Section("s", "s", tables=[table])], key="p")]
    )
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert found == [[kept, "value"], [kept, "-0.25"], [kept, "-3"]]


def test_no_file_of_a_report_follows_a_planted_link(digits: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    out, sheets = tmp_path / "out", tmp_path / "csv"
    for folder, names in ((out, ("r.html", "r.html.tmp")), (sheets, ("digits-rounds.csv",))):
        folder.mkdir()
        for name in names:
            (folder / name).symlink_to(outside)
    write_report([digits], out / "r.html", csv=sheets)
    assert outside.read_text() == "mine"
    assert rows(sheets / "digits-rounds.csv")


@pytest.mark.parametrize(
    "name", ["run.json", "config.toml", "metrics.jsonl", "examples.safetensors", "explanations.json"]
)
def test_a_pipe_in_a_folder_is_one_line_and_the_other_folder_is_reported(
    digits: Path, tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(digits, tmp_path / "bad"))
    (copy / name).unlink()
    os.mkfifo(copy / name)
    bad, good = write_report([copy, digits], tmp_path / "r.html").parts
    said = bad.problem + "".join(section.warning for section in bad.sections)
    assert name in said
    assert "\n" not in bad.problem
    assert not good.problem


def test_a_report_says_which_scripts_are_its_own(digits: Path, tmp_path: Path) -> None:
    """A script that somebody brings into the page has another hash, and does not run."""
    page = write_report([digits], tmp_path / "r.html").report.read_text()
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "form-action 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
