"""A trained model is evaluated again, only on held-out clients."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import fedmeta
from fedmeta.cli.main import main
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.experiment.evaluate import config_to_evaluate
from fedmeta.incentives import IncentiveOptions
from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskSpec
from tests.experiment.helpers import TINY, contents

VALUES: dict[str, Any] = TINY | {
    "rounds": 2,
    "task": "digits",
    "data": {"ways": 3, "shots": 1, "queries": 2, "layout": "image"},
    "algorithm": "protonet",
    "model": "conv4",
    "network": {"width": 4},
    "learner": {},
    "evaluation": {"tasks": 4, "steps": [0, 1]},
}


class Noise:
    """Digits' shape, another content: a class is a level of grey, and a little noise."""

    Options: ClassVar[type[Options]] = Options
    spec = TaskSpec("classification", (1, 8, 8), 3, own_labels=True)

    def __init__(self, options: Options, population: Population, seed: int) -> None:
        self.population = population

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        y = np.tile(np.arange(3), (count, 2))
        x = y[..., None, None, None] / 2 + rng.normal(0, 0.1, (*y.shape, 1, 8, 8))
        halves = [(x[:, part], y[:, part]) for part in (slice(0, 3), slice(3, 6))]
        sides = [{"x": torch.tensor(a).float(), "y": torch.tensor(b)} for a, b in halves]
        return TaskBatch(*sides)


class LargerNoise(Noise):
    spec = TaskSpec("classification", (1, 9, 9), 3, own_labels=True)


class TwoWayNoise(Noise):
    spec = TaskSpec("classification", (1, 8, 8), 2, own_labels=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run(Config(**VALUES), out=folder)
    return folder


def test_without_settings_it_repeats_the_final_test_and_changes_nothing_on_disk(made: Path) -> None:
    before = contents(made)
    found = fedmeta.load(made).evaluate()
    assert contents(made) == before
    assert [step.to_json() for step in found.steps] == RunFolder.open(made).info["final"]
    by_client = [row["client"] for row in RunFolder.open(made).test()]
    assert sorted(found.clients) == sorted(set(by_client))


def test_a_run_with_payments_and_misbehaving_clients_is_evaluated_like_any_other(
    made: Path,
) -> None:
    paid = RunFolder.open(made).config.model_copy(
        update={
            "incentives": IncentiveOptions(rule="tasks"),
            "behaviours": [{"kind": "noise", "clients": [0]}],
        }
    )
    found = config_to_evaluate(paid, {"evaluation.tasks": 9})
    assert (found.incentives.rule, found.behaviours, found.evaluation.tasks) == ("none", [], 9)


def test_a_metric_learner_is_evaluated_on_more_ways_and_shots_than_it_trained_on(made: Path) -> None:
    found = fedmeta.load(made).evaluate(
        {"data.test_ways": 5, "data.test_shots": 3, "evaluation.tasks": 7}
    )
    test_clients = VALUES["test_clients"]
    assert found.steps[0].tasks == 7 * test_clients
    # Five ways are harder than three, and chance is 0.2: the loss of an even guess is log 5.
    assert 0.2 < found.steps[0].measures["accuracy"].mean < 1.0
    assert found.to_json()["settings"] == {
        "data.test_ways": 5,
        "data.test_shots": 3,
        "evaluation.tasks": 7,
    }


def test_another_family_with_inputs_of_the_same_shape_is_another_domain(made: Path) -> None:
    other = {"task": "tests.experiment.test_evaluate:Noise", "clients": 4, "test_clients": 3}
    found = fedmeta.load(made).evaluate(other)
    assert sorted(found.clients) == [1, 2, 3]
    with pytest.raises(UsageError, match=r"needs images"):
        fedmeta.load(made).evaluate({"task": "sinusoid", "clients": 4, "test_clients": 3})


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (LargerNoise, r"its inputs have shape \[1, 8, 8\], and theirs \[1, 9, 9\]"),
        (TwoWayNoise, "it has 3 outputs, and they need 2"),
    ],
)
def test_a_model_that_does_not_fit_the_tasks_is_refused_in_their_shapes(
    tmp_path: Path, family: type[Noise], said: str
) -> None:
    network = {"algorithm": "maml", "model": "mlp", "network": {"hidden": [4]}}
    run(Config(**VALUES | network | {"rounds": 1}), out=tmp_path / "digits")
    other = {"task": f"{__name__}:{family.__name__}", "clients": 4, "test_clients": 3}
    with pytest.raises(UsageError, match=f"does not fit these tasks: {said}$"):
        fedmeta.load(tmp_path / "digits").evaluate(other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 1}, "seed: it decides which data are held out"),
        ({"data.partition": "iid"}, "data.partition: it decides which data are held out"),
        ({"test_clients": 3}, "test_clients: it decides which data are held out"),
        ({"rounds": 9}, "rounds: it decides what the run learned"),
        ({"algorithm": "maml"}, "algorithm: it decides what the run learned"),
        ({"evaluation.task": 9}, "unknown key 'evaluation.task': did you mean 'evaluation.tasks'?"),
        ({"data.test_shot": 9}, "unknown key 'data.test_shot': did you mean 'data.test_shots'?"),
        ({"seed": 1}, "set one of transductive, device, learner, evaluation, data.test_ways"),
        ({"evaluatoin.tasks": 9}, "unknown key 'evaluatoin.tasks': did you mean"),
        ({"data.test_ways": 1}, "data.test_ways: must be at least 2"),
        ({"data.test_ways": 11}, "ways = 11, but there are 10 digits"),
        ({"task": "digts"}, "unknown task 'digts': did you mean 'digits'"),
    ],
)
def test_settings_that_decide_what_was_learned_or_held_out_are_refused(
    made: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        fedmeta.load(made).evaluate(settings)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_that_was_compiled_is_evaluated_where_there_is_no_compiler() -> None:
    compiled = config_to_evaluate(Config(**VALUES | {"compile": True, "kernels": "native"}), {})
    assert (compiled.compile, compiled.kernels) == (False, "auto")
    assert config_to_evaluate(Config(**VALUES | {"kernels": "eager"}), {}).kernels == "eager"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_command_prints_a_table_or_one_json_object(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", str(made), "-s", "evaluation.tasks=5", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["final"][0]["tasks"] == 5 * VALUES["test_clients"]
    assert call("evaluate", str(made)) == 0
    assert "adaptation steps" in capsys.readouterr().out
    assert call("evaluate", str(made), "-s", "rounds=9") == 2


def test_a_run_from_elsewhere_runs_no_code_of_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stranger.py").write_text("open('ran', 'w').close()\n")
    copy = shutil.copytree(made, tmp_path / "runs" / "theirs")
    text = (copy / "config.toml").read_text().replace('task = "digits"', 'task = "stranger:Fam"')
    (copy / "config.toml").write_text(text)
    assert call("evaluate", str(copy)) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not Path("ran").exists()
