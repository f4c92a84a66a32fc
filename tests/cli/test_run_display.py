"""The output at the end of a run."""

import json
import shlex
from pathlib import Path

import pytest

from fedmeta.cli.run_display import adaptation_of, comparison_of
from fedmeta.config import load_config, to_toml
from fedmeta.experiment import Config
from fedmeta.experiment.planning import resolve
from tests.cli.test_main import call
from tests.experiment.helpers import TINY

PROTOTYPES = TINY | {
    "task": "digits",
    "algorithm": "protonet",
    "rounds": 2,
    "data": {"ways": 3, "shots": 1, "queries": 2},
}
UNTUNED = ("--arms", "federated,centralized,untrained")


def write(folder: Path, name: str, config: dict[str, object]) -> None:
    (folder / name).write_text(to_toml(resolve(Config(**config))))


def next_commands(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("next: ")]
    return [shlex.split(line.removeprefix("next: ").split("   ")[0]) for line in lines]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "waves.toml", TINY | {"rounds": 1})
    write(tmp_path, "quick.toml", PROTOTYPES)
    return tmp_path


def test_a_run_ends_with_commands_that_name_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "./quick.toml") == 0
    commands = next_commands(capsys.readouterr().out)
    assert commands == [
        ["fedmeta", "report", "runs/quick-001"],
        ["fedmeta", "serve"],
        ["fedmeta", "compare", "runs/quick-001/config.toml", *UNTUNED, "--seeds", "1"],
        [*("fedmeta", "adapt", "runs/quick-001"), *("--support", "DIR", "--query", "DIR")],
    ]
    assert call(*commands[0][1:]) == 0
    assert (here / "runs" / "quick-001" / "report.html").is_file()


@pytest.mark.parametrize("place", ["my runs/one", "elsewhere/it's"])
def test_a_folder_of_any_name_is_quoted_and_served(
    here: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    assert call("run", "./waves.toml", "--out", place) == 0
    report, serve, compare = next_commands(capsys.readouterr().out)
    assert report == ["fedmeta", "report", place]
    assert serve == ["fedmeta", "serve", str(Path(place).parent)]
    assert compare == ["fedmeta", "compare", f"{place}/config.toml", *UNTUNED, "--seeds", "1"]


def test_a_shipped_experiment_is_compared_by_its_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["rounds=1", "clients=3", "test_clients=1", "cohort=2", "evaluation.tasks=2"]
    settings = [part for setting in small for part in ("-s", setting)]
    assert call("run", "sinusoid-maml", *settings) == 0
    out = capsys.readouterr().out
    assert next_commands(out)[2] == ["fedmeta", "compare", "sinusoid-maml", *UNTUNED, "--seeds", "1"]
    assert "other methods on the same test tasks; takes up to 2 times as long" in out


@pytest.mark.parametrize(
    ("experiment", "options", "effort"),
    [
        ("mnist", "--arms federated,untrained,untrained-linear --seeds 1", "about as long again"),
        ("quickstart", "--seeds 1", "several times as long"),
        ("omniglot", "--arms federated,centralized,untrained --seeds 1", "up to 2 times as long"),
        ("shakespeare", "--arms federated,fedavg --seeds 1", "up to 2 times as long"),
    ],
)
def test_the_suggested_arms_are_those_that_the_experiment_sets(
    experiment: str, options: str, effort: str
) -> None:
    suggested = comparison_of(load_config(experiment))
    assert suggested == (options, f"other methods on the same test tasks; takes {effort}")


@pytest.mark.parametrize(
    ("task", "suggested"),
    [
        ("omniglot", ("--support DIR --query DIR", "label images of your own")),
        ("audio", ("--support DIR --query DIR", "label sounds of your own")),
        ("table", ("--support FILE --query FILE", "predict the rows of another table")),
        ("sinusoid", None),
    ],
)
def test_the_suggested_adaptation_names_what_the_run_reads(
    task: str, suggested: tuple[str, str] | None
) -> None:
    assert adaptation_of(task) == suggested


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"test_clients": 0}])
def test_a_run_that_cannot_be_compared_suggests_no_comparison(settings: dict[str, object]) -> None:
    assert comparison_of(load_config("omniglot", settings)) is None


def test_the_suggested_comparison_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "./waves.toml") == 0
    compare = next_commands(capsys.readouterr().out)[2]
    assert call(*compare[1:], "--jobs", "1", "--json") == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [arm["name"] for arm in arms] == ["federated", "centralized", "untrained"]


def test_json_has_no_next_lines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "./waves.toml", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "finished"
    assert "next:" not in err


def test_adaptation_without_steps_is_one_row_and_one_accuracy_a_round(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "./quick.toml") == 0
    prototypes = capsys.readouterr().out
    assert call("run", "./quick.toml", "-s", "algorithm=maml", "--out", "r") == 0
    maml = capsys.readouterr().out

    def rows(printed: str) -> list[str]:
        return [line.split()[1] for line in printed.splitlines() if "±" in line]

    assert rows(prototypes) == ["any"]
    assert rows(maml) == ["before", "1", "3"]
    rounds = [
        [line for line in printed.splitlines() if line.startswith("round 2/2")]
        for printed in (prototypes, maml)
    ]
    assert [" -> " in line for (line,) in rounds] == [False, True]


@pytest.mark.parametrize("transductive", [True, False])
def test_a_column_without_transduction_is_shown_if_it_differs(
    here: Path, capsys: pytest.CaptureFixture[str], transductive: bool
) -> None:
    images = {"data": PROTOTYPES["data"] | {"layout": "image"}, "network": {"width": 2}}
    write(here, "images.toml", PROTOTYPES | images | {"model": "conv4", "transductive": transductive})
    assert call("run", "./images.toml") == 0
    assert ("without transduction" in capsys.readouterr().out) == transductive
