"""`fedmeta init` writes a config that runs, or nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedmeta.config.toml import load_config
from fedmeta.experiment import run
from tests.cli.test_main import call
from tests.tasks.own import sounds
from tests.tasks.own.drawing import drawing, write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "here"


def started() -> dict[str, Any]:
    """Run the config that was written, shortly; return its [data]."""
    short = {"rounds": 1, "workers": 1, "network.width": 4, "evaluation.tasks": 2}
    run("own.toml", short, out=Path("run"))
    return dict(load_config("own.toml").data)


def test_a_folder_of_clients_becomes_a_config_that_runs_and_leaves_out_what_is_too_small(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "own", ["anna", "bö b", "carl", "dora"], list("abcdef"), 7)
    (here / "own" / "carl" / "b" / "3.png").write_bytes(b"")
    for index in range(1, 7):
        (here / "own" / "anna" / "f" / f"{index}.png").unlink()
    for label in "bcdef":
        shutil.rmtree(here / "own" / "dora" / label)
    assert call("data", "check", "own") == 2
    assert "refused" in capsys.readouterr().out
    assert call("init", "own", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"config": "own.toml"}
    text = (here / "own.toml").read_text(encoding="utf-8")
    assert "# Classes per task: every client has 5 or more (fewest: anna)." in text
    data = started()
    assert data["skip"] == ["anna/f", "carl/b/3.png", "dora"]
    assert (data["ways"], data["shots"], data["queries"]) == (5, 1, 5)
    assert (data["ink"], data["colour"], data["size"]) == ("dark", "grey", 28)
    assert call("init", "own") == 2
    assert "own.toml exists" in capsys.readouterr().err


def test_what_no_task_can_use_is_left_out_on_request(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "own", ["anna", "bo", "carl"], list("abc"), 4)
    (here / "own" / "anna" / "empty").mkdir()
    (here / "own" / "notes").mkdir()
    assert call("init", "own") == 2
    said = capsys.readouterr().err
    assert "data.skip = ['anna/empty'], which `fedmeta init --skip` sets" in said
    assert call("init", "own", "--skip", "anna/empty") == 2
    assert "data.skip = ['notes']" in capsys.readouterr().err
    assert not Path("own.toml").exists()
    assert call("init", "own", "--skip", "anna/empty", "--skip", "notes") == 0
    assert load_config("own.toml").data["skip"] == ["anna/empty", "notes"]
    assert load_config("own.toml").clients == 3
    others = ["--skip", "notes", "--skip", "anna/empty", "--out", "x.toml"]
    assert call("init", "own", "--skip", "ann", *others) == 2
    assert "data.skip: nothing at 'ann' in own: did you mean 'anna'" in capsys.readouterr().err


def test_a_client_of_a_table_or_of_texts_is_left_out_on_request(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"p{k % 5},{k},{k % 7}" for k in range(60)]
    (here / "own.csv").write_text("\n".join(["patient,dose,score", *rows]))
    assert call("init", "own.csv", "--skip", "p3") == 0
    assert load_config("own.toml").data["skip"] == ["p3"]
    assert load_config("own.toml").clients == 4
    assert call("init", "own.csv", "--skip", "p9", "--out", "other.toml") == 2
    assert "has no client 'p9'" in capsys.readouterr().err
    (here / "texts").mkdir()
    for name in ("anna", "bo", "carl"):
        (here / "texts" / f"{name}.txt").write_text(f"a text by {name}, long enough. " * 99)
    assert call("init", "texts", "--skip", "bo") == 0
    assert load_config("texts.toml").data["skip"] == ["bo"]
    assert load_config("texts.toml").clients == 2


@pytest.mark.parametrize("hidden", ["__pycache__", ".git"])
def test_pythons_cache_and_hidden_folders_are_neither_clients_nor_classes(
    here: Path, hidden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("anna", "bo"):
        (here / "texts" / name).mkdir(parents=True)
        (here / "texts" / name / "1.txt").write_text(
            f"a text by {name}, long enough to learn from. " * 99
        )
        (here / "texts" / name / hidden).mkdir()
    (here / "texts" / hidden).mkdir()
    (here / "texts" / hidden / "x.cpython-311.pyc").write_bytes(b"x")
    assert call("init", "texts") == 0, capsys.readouterr().err
    assert load_config("texts.toml").clients == 2
    write(here / "own", ["anna", "bo"], list("abc"), 4)
    write(here / "flat", [None], list("abcdefghij"), 16)
    for folder in ("own", "own/anna", "own/anna/a", "flat", "flat/a"):
        (here / folder / hidden).mkdir()
        (here / folder / hidden / "y").write_bytes(b"x")
    for folder, clients in (("own", 2), ("flat", None)):
        assert call("init", folder) == 0, capsys.readouterr().err
        assert clients in (None, load_config(f"{folder}.toml").clients)
        assert "skip" not in load_config(f"{folder}.toml").data


def test_a_folder_of_classes_is_dealt(here: Path) -> None:
    write(here / "own", [None], list("abcdefghij"), 16)
    assert call("init", "own") == 0
    data = started()
    assert data["partition"] == "iid"
    assert load_config("own.toml").test_clients == 1


def test_photos_are_not_drawings(here: Path) -> None:
    rng = np.random.default_rng(0)
    for client in "xyz":
        for label in "ab":
            (here / "own" / client / label).mkdir(parents=True)
            for index in range(3):
                photo = rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)
                Image.fromarray(photo).save(here / "own" / client / label / f"{index}.png")
    assert call("init", "own") == 0
    data = started()
    assert (data["ink"], data["colour"], data["size"], data["ways"]) == ("none", "rgb", 48, 2)


def test_sounds_texts_and_tables_become_configs_that_run(here: Path) -> None:
    sounds.write(here / "sounds", ["a", "b", "c"], ["x", "y"])
    (here / "texts").mkdir()
    for name in ("anna", "bob", "cid"):
        (here / "texts" / f"{name}.txt").write_text(f"{name} says ä. " * 60, encoding="utf-8")
    (here / "texts" / "dan.txt").write_text("short")
    (here / "classes.csv").write_text(
        "site,a,label\n" + "".join(f"s{r % 4},{r},{'no' if r % 3 else 'yes'}\n" for r in range(40))
    )
    short: dict[str, Any] = {"rounds": 1, "workers": 1, "evaluation.tasks": 2}
    for name, task in {"sounds": "audio", "texts": "text", "classes.csv": "table"}.items():
        assert call("init", name) == 0
        config = load_config(f"{Path(name).stem}.toml")
        assert config.task == task
        run(f"{Path(name).stem}.toml", short, out=Path(f"run-{task}"))
    assert load_config("texts.toml").data["skip"] == ["dan"]
    assert load_config("texts.toml").data["characters"] == "ä"
    assert load_config("classes.toml").data["objective"] == "classification"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("nowhere", [], "nothing at 'nowhere'"),
        ("empty", [], "holds no files"),
        ("flat", [], "flat: there are no folders of classes: it needs one folder for each class"),
        ("one of each", [], "too little for a task"),
        ("play.txt", [], "play.txt: a text needs a folder"),
        ("good", ["--out", "no/such/folder.toml"], "cannot write no/such/folder.toml"),
        ("many broken", [], "cannot be used, such as"),
    ],
)
def test_data_that_no_config_suits_is_one_line_and_nothing_is_written(
    name: str, words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty").mkdir()
    (here / "flat").mkdir()
    Image.fromarray(drawing(0, 0, 0)).save(here / "flat" / "x.png")
    write(here / "one of each", ["a", "b"], list("ab"), 1)
    write(here / "good", ["a", "b"], list("ab"), 4)
    write(here / "many broken", ["a", "b"], list("ab"), 40)
    for path in sorted((here / "many broken").rglob("*.png"))[::2]:
        path.write_bytes(b"x")
    (here / "play.txt").write_text("A:\nOne.\n")
    before = sorted(here.rglob("*"))
    assert call("init", name, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert sorted(here.rglob("*")) == before
