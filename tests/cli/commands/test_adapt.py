"""`fedmeta adapt` and `fedmeta export` on realistic folders and files."""

import json
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from fedmeta.experiment import Config, run
from fedmeta.experiment.learned.model import Learned
from fedmeta.tasks.families.digits import DEVIATION, LEVELS, MEAN
from fedmeta.tasks.own.contact_sheet import GAP, LINE, NAME, SIDE
from tests.cli.test_main import call
from tests.experiment.helpers import TINY, fedmeta
from tests.tasks.conftest import real_file

DIGITS = {
    **TINY,
    "task": "digits",
    "algorithm": "protonet",
    "rounds": 30,
    "checkpoint_every": 10,
    "data": {"ways": 5, "shots": 1, "queries": 2},
    "network": {"hidden": [32]},
    "server": {"lr": 0.01},
    "evaluation": {"tasks": 4, "steps": [0]},
}
CLASSES = ("eight", "four", "zero")
NUMBERS = (8, 4, 0)
SHOTS, ASKED = 2, 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind that the tests need."""
    folder = tmp_path_factory.mktemp("runs")
    run(Config(**DIGITS), out=folder / "digits")
    run(Config(**{**DIGITS, "algorithm": "meta_sgd", "rounds": 2}), out=folder / "head")
    run(Config(**{**DIGITS, "algorithm": "r2d2", "rounds": 2}), out=folder / "ridge")
    run(Config(**{**TINY, "rounds": 2}), out=folder / "sinusoid")
    return folder


def pixels() -> np.ndarray:
    """``[3, 5, 8, 8]``: two support and three query images of each class, ink 1."""
    data = load_digits()
    rows = [np.flatnonzero(data.target == n)[: SHOTS + ASKED] for n in NUMBERS]
    return np.stack([data.images[some] / LEVELS for some in rows])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the digits of `pixels` as black ink on white, eight times as large."""
    monkeypatch.chdir(tmp_path)
    for name, images in zip(CLASSES, pixels(), strict=True):
        for index, image in enumerate(images):
            side = "support" if index < SHOTS else "query"
            file = tmp_path / side / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            big = np.kron(255 * (1 - image), np.ones((8, 8)))
            Image.fromarray(np.rint(big).astype(np.uint8)).save(file)
    return tmp_path


def said_by_the_library(runs: Path) -> torch.Tensor:
    """The probabilities from the pixels themselves, without a file."""
    x = torch.from_numpy((pixels() - MEAN) / DEVIATION).float()
    names = [name for name in CLASSES for _ in range(SHOTS)]
    adapted = Learned.open(runs / "digits").adapt(x[:, :SHOTS].reshape(-1, 64), names)
    return adapted.predict(x[:, SHOTS:].reshape(-1, 64))


def test_folders_are_labelled_as_the_library_labels_their_pixels(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["adapt", str(runs / "digits"), "--support", "support", "--query", "query"]
    assert call(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert err == "fedmeta: the images were taken as dark ink on light paper\n"
    assert (answer["inverted"], answer["classes"]) == (True, list(CLASSES))
    expected = said_by_the_library(runs)
    assert [one["label"] for one in answer["files"]] == [CLASSES[i] for i in expected.argmax(1)]
    found = [one["probability"] for one in answer["files"]]
    assert found == pytest.approx(expected.max(1).values.tolist(), abs=0.01)
    assert answer["files"][0]["file"] == "query/eight/2.png"
    right = sum(one["label"] == one["truth"] for one in answer["files"])
    assert answer["accuracy"] == right / 9
    assert answer["saved"] is None

    assert call(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].split()[:2] == ["query/eight/2.png", answer["files"][0]["label"]]
    assert lines[-1] == f"accuracy {right / 9:.3f} ({right} of 9)"


def test_a_flat_query_folder_is_unlabelled(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = str(here / "query" / "zero")
    assert call("adapt", str(runs / "digits"), "--support", "support", "--query", query, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accuracy"] is None
    assert [one["truth"] for one in answer["files"]] == [None] * 3


def test_skipped_and_unusual_files_are_reported(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "support" / ".DS_Store").touch()
    other = Image.fromarray(255 - np.asarray(Image.open("query/zero/2.png")))
    other.save("query/zero/2.png")
    assert call("adapt", str(runs / "digits"), "--support", "support", "--query", "query") == 0
    err = capsys.readouterr().err.splitlines()
    assert err == [
        "fedmeta: 1 hidden files were skipped, such as support/.DS_Store",
        "fedmeta: the images were taken as dark ink on light paper",
        "fedmeta: 1 of them differ at the edge, such as query/zero/2.png",
    ]


def test_samples_of_fewer_bits_are_detected_from_both_folders_or_given(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in here.glob("*/*/*.png"):
        page = np.asarray(Image.open(file)).astype(np.uint16)
        # 12 bits of 16; the query images are dark, and stay so.
        Image.fromarray(page * 16 if "support" in file.parts else page * 4).save(file)
    arguments = ["adapt", str(runs / "digits"), "--support", "support", "--query", "query", "--json"]
    assert call(*arguments, "--invert", "yes") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"][0].startswith("samples of more than 8 bits reach 4080: taken as 12 bits (")
    assert call(*arguments, "--invert", "yes", "--samples", "12") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == told["files"]
    assert call(*arguments, "--invert", "yes", "--samples", "14") == 0
    assert json.loads(capsys.readouterr().out)["files"] != told["files"]
    assert call(*arguments, "--samples", "10") == 2
    assert "beyond the 1023 of 10 bits" in capsys.readouterr().err


def test_steps_are_noted_as_without_effect_where_nothing_steps(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--support", "support", "--query", "query"]
    assert call("adapt", str(runs / "digits"), *folders, "--steps", "3") == 0
    assert "protonet has no inner loop" in capsys.readouterr().err
    assert call("adapt", str(runs / "head"), *folders, "--steps", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3


def test_saved_weights_carry_their_classes(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--support", "support", "--query", "query"]
    assert call("adapt", str(runs / "head"), *folders, "--save", "a.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["saved"] == "a.safetensors"
    with safe_open("a.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        assert sorted(file.keys()) == ["1.bias", "1.weight", "3.bias", "3.weight"]
    assert (about["run"], about["classes"]) == ("head", list(CLASSES))


def spoil(here: Path, how: str) -> None:
    if how == "text in support":
        (here / "support" / "zero" / "notes.txt").write_text("not an image")
    elif how == "truncated query":
        file = here / "query" / "four" / "3.png"
        file.write_bytes(file.read_bytes()[:60])
    elif how == "empty class":
        (here / "support" / "empty").mkdir()
    elif how == "unknown class":
        (here / "query" / "zero").rename(here / "query" / "zeros")
    elif how == "one class":
        for name in ("four", "eight"):
            (here / "support" / name).rename(here / name)
            (here / "query" / name).rename(here / f"q{name}")
    elif how == "many classes":
        for name in "abc":
            (here / "support" / name).mkdir()
            (here / "support" / name / "1.png").write_bytes(
                (here / "support" / "zero" / "0.png").read_bytes()
            )


FOLDERS = ["--support", "support", "--query", "query"]


@pytest.mark.parametrize(
    ("how", "name", "arguments", "message"),
    [
        (
            "text in support",
            "digits",
            FOLDERS,
            "support/zero/notes.txt: not a PNG, JPEG, TIFF, BMP, ",
        ),
        ("truncated query", "digits", FOLDERS, "query/four/3.png: cannot be read"),
        ("empty class", "digits", FOLDERS, "support/empty is a class without images"),
        ("unknown class", "digits", FOLDERS, "'zeros' is not in support: did you mean 'zero'?"),
        ("one class", "digits", FOLDERS, "only one class, 'zero'"),
        ("many classes", "head", FOLDERS, "6 classes, but this run's network has 5 outputs"),
        ("", "digits", ["--support", "query/zero", "--query", "query"], "query/zero has no subfolders"),
        (
            *("", "digits", ["--support", "supprt", "--query", "query"]),
            "--support: no folder at 'supprt': did you mean 'support'?",
        ),
        ("", "digits", [*FOLDERS, "--steps", "-1"], "--steps: must be at least 0 (got -1)"),
        (
            *("", "digits", [*FOLDERS, "--invert", "maybe"]),
            "--invert: must be one of 'auto', 'yes', 'no' (got 'maybe')",
        ),
        ("", "digits", [*FOLDERS, "--samples", "11"], "--samples: must be one of 'auto', '8', '10', "),
        ("", "digits", [*FOLDERS, "--save", "none/a.safetensors"], "cannot write to none/a.safetensors"),
        ("", "sinusoid", FOLDERS, "use fedmeta.load(RUN).adapt(support_x, support_y)"),
        ("", "digit", FOLDERS, "/digits'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_writes_nothing(
    runs: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    how: str,
    name: str,
    arguments: list[str],
    message: str,
) -> None:
    spoil(here, how)
    before = sorted(here.rglob("*"))
    save = [] if "--save" in arguments else ["--save", "weights.safetensors"]
    assert call("adapt", str(runs / name), *arguments, *save) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert message in last
    if "--save" not in arguments:
        assert err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_export_prints_lines_that_load_what_it_wrote(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", str(runs / "head"), "--out", "m.safetensors") == 0
    out, err = capsys.readouterr()
    assert "the weights of round 2 are in m.safetensors" in err
    assert "left out, as not weights of the network: lr.head.bias" in err
    names: dict[str, Any] = {}
    exec(out, names)
    assert capsys.readouterr().out == "torch.Size([2, 5])\n"
    x = torch.randn(4, 64)
    learned = Learned.open(runs / "head")
    hidden = torch.relu(x @ learned.state["hidden0.weight"] + learned.state["hidden0.bias"])
    expected = hidden @ learned.state["head.weight"] + learned.state["head.bias"]
    with torch.no_grad():
        assert torch.allclose(names["model"](x), expected, atol=1e-6)


def test_export_writes_into_the_run_by_default(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", str(runs / "digits"), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["file"] == str(runs / "digits" / "model.safetensors")
    assert Path(shown["file"]).is_file()
    assert shown["tensors"] == {"1.weight": [32, 64], "1.bias": [32]}
    assert shown["file"] in shown["code"]


ALPHABET = "Sanskrit"
WAYS, DRAWINGS = 20, 3


def write_alphabet(archive: Path, folder: Path) -> None:
    """Write the official drawings of 20 characters: one support and two query images each."""
    rng = random.Random(0)
    with zipfile.ZipFile(archive) as drawings:
        members: dict[str, list[str]] = {}
        for name in sorted(drawings.namelist()):
            if f"/{ALPHABET}/" in name and name.endswith(".png"):
                members.setdefault(name.split("/")[-2], []).append(name)
        for character in rng.sample(sorted(members), WAYS):
            for index, name in enumerate(rng.sample(members[character], DRAWINGS)):
                side = "support" if index == 0 else "query"
                file = folder / side / character / Path(name).name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(drawings.read(name))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_unseen_characters_are_classified_from_one_drawing_each(tmp_path: Path) -> None:
    real_file("omniglot/images_background_small1.zip")
    write_alphabet(real_file("omniglot/images_background_small2.zip"), tmp_path)
    one_thread = {"env": os.environ | {"OMP_NUM_THREADS": "1"}}
    short = {
        "rounds": 120,
        "workers": 1,
        "data.ways": 20,
        "data.queries": 3,
        "evaluation.every": 0,
        "evaluation.tasks": 4,
    }
    changes = [part for key, value in short.items() for part in ("-s", f"{key}={value}")]
    trained = fedmeta(
        "run",
        "omniglot-20way-1shot-protonet",
        *changes,
        "--out",
        "r",
        "--json",
        cwd=tmp_path,
        **one_thread,
    )
    assert trained.returncode == 0, trained.stderr
    # Nothing of the test alphabet was ever trained or chosen on.
    config = Learned.open(tmp_path / "r").config
    assert config.data["test_alphabets"] == [ALPHABET]
    folders = ["--support", "support", "--query", "query"]
    adapted = fedmeta("adapt", "r", *folders, "--json", cwd=tmp_path, **one_thread)
    assert adapted.returncode == 0, adapted.stderr
    answer = json.loads(adapted.stdout)
    assert len(answer["classes"]) == WAYS
    assert len(answer["files"]) == WAYS * (DRAWINGS - 1)
    # Chance is 0.05: more than 10 of 40 right by chance has a probability below 1e-5.
    assert answer["accuracy"] > 0.25


LOGISTIC = "sklearn.linear_model.LogisticRegression(C=2)"


@pytest.mark.parametrize("name", ["digits", "head"])
def test_a_scikit_learn_head_labels_folders(
    name: str, runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a run with an embedding, and on one whose own head it replaces."""
    arguments = ("adapt", str(runs / name), "--support", "support", "--query", "query", "--json")
    said = []
    for head in (LOGISTIC, "sklearn.neighbors.KNeighborsClassifier(n_neighbors=1)"):
        assert call(*arguments, "--head", head) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert all(one["accuracy"] > 0.5 for one in said)
    assert min(row["probability"] for row in said[1]["files"]) == pytest.approx(1.0, abs=1e-5)
    x = torch.from_numpy((pixels() - MEAN) / DEVIATION).float()
    adapted = Learned.open(runs / name).adapt(
        x[:, :SHOTS].reshape(-1, 64), [n for n in CLASSES for _ in range(SHOTS)], head=LOGISTIC
    )
    expected = adapted.predict(x[:, SHOTS:].reshape(-1, 64)).max(1).values
    found = {row["file"]: row["probability"] for row in said[0]["files"]}
    files = [f"query/{name}/{index}.png" for name in CLASSES for index in range(SHOTS, SHOTS + ASKED)]
    # Files have 8 bits a pixel.
    assert [found[file] for file in files] == pytest.approx(expected.tolist(), abs=5e-3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--head", "os.system('true')"], "head: 'os.system' is not an estimator class"),
        (["--head", "sklearn.svm.SVC(C='a')"], "cannot be fitted"),
        (["--head", LOGISTIC, "--save", "a.safetensors"], "has no adapted weights to save"),
    ],
)
def test_a_head_that_cannot_be_used_is_one_line(
    options: list[str], why: str, runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("adapt", str(runs / "digits"), "--support", "support", "--query", "query", *options)
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert why in said[-1]
    assert not list(here.glob("*.safetensors"))


def explained(
    runs: Path, name: str, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[dict[str, Any], str]:
    folders = ["--support", "support", "--query", "query", *more]
    assert call("adapt", str(runs / name), *folders, "--explain", "--json") == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_explained_predictions_name_the_images_that_count_most(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, err = explained(runs, "digits", capsys)
    assert said["explained_by"] == "weights"
    assert "the support images that count most" in err
    shares = 0.0
    for one in said["files"]:
        values = [reason["value"] for reason in one["support"]]
        assert len(values) <= 3
        assert values == sorted(values, reverse=True)
        for reason in one["support"]:
            assert Path(reason["file"]).is_file()
            assert Path(reason["file"]).parent.name == reason["label"]
        own = [v["value"] for v in one["support"] if v["label"] == one["label"]]
        # Of a class's two images at least one is named, and both are its probability.
        assert 0.5 * one["probability"] - 1e-6 <= sum(own) <= one["probability"] + 1e-6
        shares += sum(own)
    assert shares > 0


def test_what_an_image_adds_is_the_probability_without_it(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapt again by the library, to the other five images."""
    said, err = explained(runs, "head", capsys, "--steps", "9")
    assert said["explained_by"] == "leave-one-out"
    assert "its probability falls most" in err
    x = torch.from_numpy((pixels() - MEAN) / DEVIATION).float()
    support = x[:, :SHOTS].reshape(-1, 64)
    names = [name for name in CLASSES for _ in range(SHOTS)]
    learned = Learned.open(runs / "head")
    full = learned.adapt(support, names, 9).predict(x[:, SHOTS:].reshape(-1, 64))
    checked = 0
    for place, one in enumerate(said["files"]):
        column = sorted(CLASSES).index(one["label"])
        for reason in one["support"]:
            file = Path(reason["file"])
            left_out = CLASSES.index(file.parent.name) * SHOTS + int(file.stem)
            kept = [i for i in range(len(names)) if i != left_out]
            adapted = learned.adapt(support[kept], [names[i] for i in kept], 9)
            without = adapted.predict(x[:, SHOTS:].reshape(-1, 64))
            fall = float(full[place, column] - without[place, column])
            assert reason["value"] == pytest.approx(fall, abs=2e-3)
            checked += 1
    assert checked > 3


def test_explanations_are_printed_below_each_prediction(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--support", "support", "--query", "query"]
    assert call("adapt", str(runs / "digits"), *folders, "--explain") == 0
    lines = capsys.readouterr().out.splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith("query")]
    assert len(places) == len(CLASSES) * ASKED
    for place in places:
        value, file = lines[place + 1].split()
        assert 0 < float(value) <= 1
        assert (here / file).is_file()
    assert call("adapt", str(runs / "digits"), *folders) == 0
    plain = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == plain


def test_what_cannot_be_explained_is_a_note(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in CLASSES:
        (here / "support" / name / "1.png").unlink()
    said, err = explained(runs, "ridge", capsys)
    assert "predictions are not explained: a support example that is the only one of its class" in err
    assert "support" not in said["files"][0]


def test_pictures_show_each_image_beside_those_that_speak_for_its_label(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, _ = explained(runs, "digits", capsys)
    folders = ["--support", "support", "--query", "query"]
    assert call("adapt", str(runs / "digits"), *folders, "--pictures", "why.png") == 0
    assert capsys.readouterr().err.endswith("pictures are in why.png\n")
    sheet = np.asarray(Image.open("why.png"))
    for row, one in enumerate(said["files"]):
        top = GAP + row * (SIDE + LINE + GAP)
        for column, file in enumerate([one["file"], *(reason["file"] for reason in one["support"])]):
            left = NAME + GAP + column * (SIDE + GAP)
            drawn = sheet[top : top + SIDE, left : left + SIDE, 0].astype(int)
            assert abs(drawn - np.asarray(Image.open(file))).max() <= 1


@pytest.mark.parametrize("command", ["adapt", "export"])
def test_weights_do_not_replace_a_file_of_another_kind(
    command: str, runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "notes.txt").write_text("keep me")
    option, rest = ("--save", FOLDERS) if command == "adapt" else ("--out", [])
    assert call(command, str(runs / "digits"), *rest, option, "notes.txt") == 2
    told = f"fedmeta: {option}: notes.txt exists and is not a .safetensors file: name another\n"
    assert capsys.readouterr().err == told
    assert (here / "notes.txt").read_text() == "keep me"
    assert call(command, str(runs / "digits"), *rest, option, ".") == 2
    assert f"fedmeta: {option}: . is a folder: name a file" in capsys.readouterr().err
    for _ in range(2):
        assert call(command, str(runs / "digits"), *rest, option, "weights.pt") == 0
    assert load_file(here / "weights.pt")


def test_pictures_say_how_many_images_they_leave_out(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = sorted((here / "query").rglob("*.png"))
    for number in range(43 - len(query)):
        shutil.copy(query[0], query[0].with_name(f"copy{number}.png"))
    folders = ["--support", "support", "--query", "query"]
    assert call("adapt", str(runs / "digits"), *folders, "--pictures", "why.png") == 0
    assert capsys.readouterr().err.endswith("pictures are in why.png; 3 more images are not drawn\n")
    with Image.open("why.png") as sheet:
        assert sheet.size[1] == 40 * (SIDE + LINE + GAP) + GAP


def test_weights_and_pictures_go_to_different_files(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--support", "support", "--query", "query", "--save", "a", "--pictures", "./a"]
    assert call("adapt", str(runs / "digits"), *folders) == 2
    assert "--save and --pictures both name a" in capsys.readouterr().err
    assert not (here / "a").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("support/why.png", "support/why.png is in support, whose files are read: name one elsewhere"),
        ("query/zero/2.png", "query/zero/2.png exists: remove it, or name another file for --pictures"),
        ("none/why.png", "--pictures: no folder none for why.png: create it first"),
    ],
)
def test_pictures_replace_no_file(
    file: str, message: str, runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*.png")}
    folders = ["--support", "support", "--query", "query"]
    assert call("adapt", str(runs / "digits"), *folders, "--pictures", file) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*.png")} == before
