"""Runs under each way to train: their files, repeatability, and resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from fedmeta.errors import ConfigError, DataError
from fedmeta.experiment import Config, Listener, RunFolder, held_out, load_config, resume, run
from fedmeta.experiment.held_out import EXAMPLES
from fedmeta.federation import Learner
from fedmeta.federation.engines.vector.pool import Worker
from tests.experiment.helpers import TINY, contents

TRAININGS = ("federated", "centralized", "local")
DIGITS: dict[str, Any] = {
    "task": "digits",
    "algorithm": "maml",
    "model": "mlp",
    "rounds": 2,
    "clients": 9,
    "test_clients": 3,
    "cohort": 4,
    "workers": 1,
    "evaluation": {"tasks": 4, "steps": [0, 1, 3], "track": 1, "track_tasks": 3},
}


@pytest.fixture(scope="module", params=TRAININGS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each kind; tests only read it."""
    path = tmp_path_factory.mktemp("runs") / str(request.param)
    run(Config(**DIGITS, training=request.param), out=path)
    return path


def test_every_way_to_train_leaves_the_same_files(finished: Path) -> None:
    folder = RunFolder.open(finished)
    assert folder.status == "finished"
    rows = folder.metrics()
    assert [row["tasks"] for row in rows] == [4, 4], "the budget is that of the cohort"
    assert [len(row["test"]) for row in rows] == [3, 3]
    assert all(row["test"][0]["tasks"] == 3 * 3 for row in rows)
    sent = folder.config.training == "federated"
    assert all((row["bytes_up"] > 0) == sent and (row["bytes_down"] > 0) == sent for row in rows)
    assert len(folder.clients()) == (0 if folder.config.training == "centralized" else 8)


@pytest.mark.parametrize(("training", "starts"), [("local", 0), ("centralized", 1), ("federated", 1)])
def test_workers_start_only_where_clients_are_asked(
    training: str, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    class Computing(Worker):
        def __init__(self, learner: Learner) -> None:
            begun.append(len(list((tmp_path / "r").glob("checkpoints/*.json"))))
            super().__init__(learner)

    monkeypatch.setattr("fedmeta.federation.engines.vector.pool.Worker", Computing)
    run(Config(**(DIGITS | {"workers": 2, "training": training})), out=tmp_path / "r")
    assert len(begun) == 2 * starts
    # Without a federation they wait for the test: every round is done by then.
    assert all((rounds > 0) == (training == "centralized") for rounds in begun)


def test_without_a_federation_the_data_must_be_here_on_any_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMETA_DATA", str(tmp_path))
    settings = {"engine": "deployment", "training": "centralized"}
    with pytest.raises(DataError, match=r"is not in .*: fetch it with `fedmeta data fetch omniglot`"):
        run("omniglot", settings, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_test_clients_are_shown_one_by_one_beside_their_mean(finished: Path) -> None:
    folder = RunFolder.open(finished)
    rows, final = folder.test(), folder.info["final"]
    assert [row["client"] for row in rows] == [6, 7, 8]
    for index, step in enumerate(final):
        own = [row["steps"][index] for row in rows]
        assert [one["tasks"] for one in own] == [4, 4, 4]
        for name in ("loss", "accuracy"):
            mean = sum(one[name] for one in own) / 3
            assert step[name] == pytest.approx(mean, rel=1e-12)


def test_examples_are_computed_on_one_thread_like_the_rest_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autograd on two threads rounds differently."""
    seen: list[int] = []
    usual = held_out._example

    def example(learner: Learner, state: dict[str, torch.Tensor], client: int) -> Any:
        seen.append(torch.get_num_threads())
        return usual(learner, state, client)

    monkeypatch.setattr(held_out, "_example", example)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(Config(**DIGITS), out=tmp_path / "r")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1]


def test_examples_hold_what_the_model_says_before_and_after(finished: Path) -> None:
    with safe_open(finished / EXAMPLES, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert about == {
        "kind": "classification",
        "steps": 3,
        "clients": [6, 7, 8],
        "characters": None,
    }
    for example in range(3):
        before, after = (tensors[f"{example}.{when}"] for when in ("before", "after"))
        assert before.shape == after.shape == (5, 5)
        torch.testing.assert_close(after.sum(-1), torch.ones(5))
        assert not torch.equal(before, after)
        assert tensors[f"{example}.support_x"].shape == (5, 64)
        assert sorted(tensors[f"{example}.support_y"].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("training", TRAININGS)
def test_a_run_cut_short_and_extended_equals_the_undisturbed_one(training: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(Config(**TINY, training=training), out=whole)
    run(Config(**TINY | {"rounds": 4}, training=training), out=cut)
    resume(cut, {"rounds": 6}, listener=Listener())
    assert contents(whole) == contents(cut)
    for name in (EXAMPLES, "test.jsonl"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


def test_a_regression_on_one_input_shows_its_curves(tmp_path: Path) -> None:
    run(Config(**TINY), out=tmp_path / "run")
    with safe_open(tmp_path / "run" / EXAMPLES, framework="pt") as file:
        grid, after = file.get_tensor("0.grid_x"), file.get_tensor("0.grid_after")
        points = torch.cat([file.get_tensor("0.support_x"), file.get_tensor("0.query_x")])
    assert grid.shape == after.shape
    assert (grid.min(), grid.max()) == (points.min(), points.max())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training": "central"},
            "training: unknown way to train 'central': did you mean 'centralized'",
        ),
        ({"training": "local", "chain.provider": "embedded"}, "no replies: unset chain.provider"),
        ({"training": "centralized", "incentives.rule": "tasks"}, "unset incentives.rule"),
        (
            {"test_clients": 0, "evaluation.track": 5},
            "evaluation.track needs test_clients of at least 1",
        ),
    ],
)
def test_keys_that_need_a_federation_are_refused_without_one(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", settings)
