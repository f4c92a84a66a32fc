"""Users' parts work from start to export, or are refused in one line before anything is written."""

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

import fedmeta
from fedmeta.config import Config
from fedmeta.errors import UsageError
from fedmeta.incentives import Game, IncentiveRule
from fedmeta.learning.algorithms.fomaml import FOMAML
from fedmeta.options import Options, parse_options
from fedmeta.tasks import Population, TaskBatch, TaskSpec
from tests.experiment.helpers import contents

HERE = "tests.experiment.test_trial"
SMALL: dict[str, Any] = {
    "task": f"{HERE}:Blobs",
    "algorithm": "maml",
    "model": f"{HERE}:Adapter",
    "rounds": 4,
    "clients": 8,
    "test_clients": 2,
    "cohort": 4,
    "workers": 1,
    "learner": {"inner_lr": 0.1},
    "evaluation": {"tasks": 4, "steps": [0, 2]},
}


class BlobOptions(Options):
    """Options of `Blobs`.

    Attributes:
        slip: What is wrong with the labels.
        clients: Of which clients.
    """

    slip: str = "none"
    clients: list[int] = Field(default_factory=list)


class Blobs:
    """Three points in ten dimensions for each client, to be told apart."""

    Options: ClassVar[type[Options]] = BlobOptions

    def __init__(self, options: BlobOptions, population: Population, seed: int) -> None:
        self.options, self.population = options, population
        self.spec = TaskSpec("classification", (10,), 3)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        centres = np.random.default_rng(client).normal(size=(3, 10))
        sides: list[Tensor] = []
        for rows in (3, 6):
            y = np.tile(np.arange(rows) % 3, (count, 1))
            x = centres[y] + 0.3 * rng.normal(size=(count, rows, 10))
            if self.options.slip == "one-based" and client in self.options.clients:
                y = y + 1
            if self.options.slip == "raises" and client in self.options.clients:
                raise ValueError("no examples")
            sides += [torch.from_numpy(x).float(), torch.from_numpy(y)]
        return TaskBatch(*sides)


class Adapter(nn.Module):
    """A frozen random trunk, scaled by a random buffer, and a head that learns."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.trunk = nn.Linear(10, width).requires_grad_(False)
        self.register_buffer("scale", torch.rand(width) + 0.5)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.trunk(x)) * self.scale)


class Noisy(Adapter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn(1)


class Forgetful(FOMAML):
    def task_updates(self, state: Any, tasks: TaskBatch) -> Any:
        updates, metrics = super().task_updates(state, tasks)
        updates.popitem()
        return updates, metrics


class ByLayers(IncentiveRule):
    """The share of an update that is in the head, the last 39 of all values: it needs real updates."""

    needs_vectors = True

    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        assert game.players.updates.shape[1] == 39
        return [float(np.abs(update).max()) for update in game.players.updates]


class Lucky(IncentiveRule):
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [float(np.random.random()) for _ in game.players.clients]


class Greedy(IncentiveRule):
    needs_vectors = True

    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        game.players.updates[:] = 1.0
        return [1.0] * len(game.players)


class Undefined(IncentiveRule):
    needs_held_out = True

    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [game.value([player]) * float("nan") for player in game.everybody]


class Forgetting(IncentiveRule):
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [1.0] * (len(game.players) - 1)


def run(out: Path, check: bool = True, **changes: Any) -> fedmeta.Result:
    return fedmeta.run(parse_options(Config, SMALL), changes, out=out, check=check)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "straight").run


def test_frozen_tensors_stay_as_the_seed_drew_them(straight: Path) -> None:
    state = load_file(straight / "checkpoints/round-000004.safetensors")
    assert {key for key in state if key.startswith("state.")} == {"state.head.weight", "state.head.bias"}
    constants = load_file(straight / "checkpoints/constants.safetensors")
    assert constants.keys() == {"trunk.weight", "trunk.bias", "scale"}
    assert not torch.equal(constants["trunk.weight"], Adapter().trunk.weight)
    first = load_file(straight / "checkpoints/round-000003.safetensors")["state.head.weight"]
    assert not torch.equal(first, state["state.head.weight"])


@pytest.mark.parametrize("changes", [{"workers": 2}, {"rounds": 2}], ids=["workers", "resumed"])
def test_constants_are_the_same_in_workers_and_after_a_resume(
    straight: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    again = run(tmp_path / "again", **changes).run
    if "rounds" in changes:
        fedmeta.resume(again, {"rounds": 4})
    ours, theirs = contents(again), contents(straight)
    assert ours["round-000004.safetensors"] == theirs["round-000004.safetensors"]
    assert ours["constants.safetensors"] == theirs["constants.safetensors"]


def test_an_exported_model_and_a_loaded_run_predict_what_the_run_did(
    straight: Path, tmp_path: Path
) -> None:
    learned = fedmeta.load(straight)
    plain = learned.export(tmp_path / "model.safetensors")
    model = Adapter()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert plain.tensors.keys() == model.state_dict().keys()
    tasks = Blobs(BlobOptions(), Population(8), 0).sample(1, 1, np.random.default_rng(0))
    adapted = learned.adapt(tasks.support_x[0], tasks.support_y[0], steps=0)
    said = adapted.predict(tasks.query_x[0])
    torch.testing.assert_close(said, model(tasks.query_x[0]).softmax(-1).detach(), rtol=1e-6, atol=1e-6)

    tuned = learned.adapt(tasks.support_x[0], tasks.support_y[0], steps=3)
    tuned.save(tmp_path / "tuned.safetensors")
    model.load_state_dict(load_file(tmp_path / "tuned.safetensors"))
    said = tuned.predict(tasks.query_x[0])
    torch.testing.assert_close(said, model(tasks.query_x[0]).softmax(-1).detach(), rtol=1e-6, atol=1e-6)


def test_a_loaded_model_uses_the_constants_of_its_checkpoint(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fedmeta.load(straight).export().tensors
    # A trunk that is now drawn otherwise, as from another file of weights.
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    after = fedmeta.load(straight).export().tensors
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_run_whose_constants_would_differ_now_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = run(tmp_path / "begun", rounds=2).run
    original = Adapter.__init__

    def changed(self: Adapter, width: int = 12) -> None:
        original(self, width)
        self.trunk.bias.data.add_(1.0)

    monkeypatch.setattr(Adapter, "__init__", changed)
    before = contents(begun)
    with pytest.raises(UsageError, match=r"frozen parameters and buffers differ from those of round 2"):
        fedmeta.resume(begun, {"rounds": 4})
    assert contents(begun) == before


def test_a_lost_file_of_constants_is_written_again(straight: Path, tmp_path: Path) -> None:
    begun = run(tmp_path / "begun", rounds=2).run
    (begun / "checkpoints/constants.safetensors").unlink()
    fedmeta.resume(begun, {"rounds": 4})
    assert contents(begun)["constants.safetensors"] == contents(straight)["constants.safetensors"]


REFUSED = {
    "random forward": ({"model": f"{HERE}:Noisy"}, r"model '.*Noisy' draws random numbers"),
    "a key is lost": (
        {"algorithm": f"{HERE}:Forgetful"},
        r"algorithm '.*Forgetful' with model .* keys of the state \(see 'head.bias'\)",
    ),
    "labels from one": (
        {"data.slip": "one-based", "data.clients": [5]},
        r"tasks of client 5: support_y holds 3, but labels must be between 0 and 2; count from 0",
    ),
    "labels of a test client": (
        {"data.slip": "one-based", "data.clients": [7]},
        r"tasks of client 7: support_y holds 3",
    ),
    "chance pays": (
        {"incentives.rule": f"{HERE}:Lucky"},
        r"incentives.rule '.*Lucky' returns different scores for the same round",
    ),
    "updates are changed": (
        {"incentives.rule": f"{HERE}:Greedy"},
        r"incentives.rule '.*Greedy' changes the updates in place",
    ),
    "a score is no number": (
        {"incentives.rule": f"{HERE}:Undefined", "validation_clients": 1},
        r"incentives.rule '.*Undefined' returned a score that is not finite",
    ),
    "a client is forgotten": (
        {"incentives.rule": f"{HERE}:Forgetting"},
        r"incentives.rule '.*Forgetting' returned 3 scores for 4 clients",
    ),
    "nobody has data": (
        {"data.slip": "raises", "data.clients": list(range(8))},
        r"no client can draw a task \(client 0: ValueError: no examples\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_part_that_would_go_wrong_is_refused_before_a_folder_is_made(
    case: str, tmp_path: Path
) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as refusal:
        run(tmp_path / "run", **changes)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_no_check_starts_without_a_trial(tmp_path: Path) -> None:
    result = run(tmp_path / "run", check=False, model=f"{HERE}:Noisy", rounds=1)
    assert result.status == "finished"


def test_a_users_own_rule_that_passes_its_trial_pays(tmp_path: Path) -> None:
    result = run(tmp_path / "run", rounds=1, **{"incentives.rule": f"{HERE}:ByLayers"})
    rows = fedmeta.RunFolder.open(result.run).clients()
    assert [row["score"] > 0 for row in rows] == [True] * 4


def test_a_client_whose_labels_are_wrong_in_the_run_is_refused_by_its_reason(tmp_path: Path) -> None:
    changes = {"data.slip": "one-based", "data.clients": [2], "cohort": 6, "rounds": 1}
    result = run(tmp_path / "run", check=False, **changes)
    rows = [row for row in fedmeta.RunFolder.open(result.run).clients() if not row["admitted"]]
    assert [row["client"] for row in rows] == [2]
    assert re.search("support_y holds 3, but labels must be between 0 and 2", rows[0]["reason"])
