"""A trained model adapts to a user's data and is exported as plain files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import fedmeta
from fedmeta.errors import DivergedError, UsageError
from fedmeta.experiment import Config, run
from fedmeta.experiment.checkpoint import DamagedCheckpointError
from fedmeta.experiment.learned.model import Learned
from fedmeta.experiment.planning import check
from fedmeta.learning import expand_state
from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskSpec, stream
from tests.experiment.helpers import TINY

SHORT = {"rounds": 3, "checkpoint_every": 1}
DIGITS = {
    **TINY,
    **SHORT,
    "task": "digits",
    "data": {"ways": 3, "shots": 2, "queries": 2, "layout": "image"},
    "network": {"hidden": [12]},
    "learner": {"inner_lr": 0.1},
}
CONV4 = {"model": "conv4", "network": {"width": 4}}
RUNS: dict[str, dict[str, Any]] = {
    "sinusoid": {**TINY, **SHORT, "evaluation": {"tasks": 4, "steps": [0, 2], "every": 1}},
    "digits": DIGITS,
    "conv4": {**DIGITS, **CONV4},
    "meta_sgd": {**DIGITS, "algorithm": "meta_sgd"},
    "pretrained": {
        **DIGITS,
        "algorithm": "pretrained",
        "data": {**DIGITS["data"], "labels": "global"},
        "learner": {"inner_lr": 0.1},
    },
    "protonet": {**DIGITS, **CONV4, "algorithm": "protonet", "learner": {}},
    "coordinatewise_lstm": {**DIGITS, "algorithm": "coordinatewise_lstm", "learner": {}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, values in RUNS.items():
        run(Config(**values), out=folder / name)
    return folder


def task(path: Path) -> TaskBatch:
    """A test task of a run's own, as nothing that was trained on."""
    learner = check(Config(**RUNS[path.name]))
    client = learner.family.population.clients("test")[0]
    return learner.family.sample(client, 1, stream(7, "mine"))


@pytest.mark.parametrize("name", sorted(RUNS))
def test_adapt_and_predict_are_the_algorithms_own(runs: Path, name: str) -> None:
    """The reference is the algorithm, run on the task as the final test runs it."""
    learned = fedmeta.load(runs / name)
    mine = task(runs / name)
    adapted = learned.adapt(mine.support_x[0], mine.support_y[0], steps=2)
    algorithm = check(learned.config).algorithm
    state = expand_state(learned.state, 1)
    values = algorithm.adapt(state, mine.support, 2)
    expected = algorithm.predict(state, values, mine.query, transductive=False)[0].detach()
    if name != "sinusoid":
        expected = expected.softmax(-1)
        assert adapted.classes == (0, 1, 2)
    assert torch.allclose(adapted.predict(mine.query_x[0]), expected, atol=1e-6)


def test_arrays_tensors_and_lists_say_the_same(runs: Path) -> None:
    learned, mine = fedmeta.load(runs / "digits"), task(runs / "digits")
    x, y, query = mine.support_x[0], mine.support_y[0], mine.query_x[0]
    expected = learned.adapt(x, y).predict(query)
    arrays = learned.adapt(x.numpy()[:, 0].astype(np.float64), y.numpy()).predict(query.numpy())
    assert isinstance(expected, torch.Tensor)
    assert isinstance(arrays, np.ndarray)
    assert np.allclose(arrays, expected.numpy())
    lists = learned.adapt(x.tolist(), y.tolist()).predict(query)
    assert torch.equal(lists, expected)


def test_labels_may_be_names_and_classes_of_different_sizes(runs: Path) -> None:
    learned, mine = fedmeta.load(runs / "protonet"), task(runs / "protonet")
    names = np.array(["nine", "alpha", "zeta"])[mine.support_y[0]]
    keep = [0, 1, 2, 4, 5]
    adapted = learned.adapt(mine.support_x[0][keep], names[keep])
    assert adapted.classes == ("alpha", "nine", "zeta")
    by_number = learned.adapt(mine.support_x[0][keep], mine.support_y[0][keep])
    said = adapted.predict(mine.query_x[0])
    assert torch.allclose(said[:, [1, 0, 2]], by_number.predict(mine.query_x[0]), atol=1e-6)


def test_an_absent_class_gets_no_chance(runs: Path) -> None:
    learned, mine = fedmeta.load(runs / "digits"), task(runs / "digits")
    said = learned.adapt(mine.support_x[0][:4], mine.support_y[0][:4]).predict(mine.query_x[0])
    assert said.shape == (6, 2)
    assert torch.allclose(said.sum(1), torch.ones(6))


def test_a_head_limits_the_ways_and_prototypes_do_not(runs: Path) -> None:
    x, y = torch.rand(8, 1, 8, 8), list("abcdefgh")
    with pytest.raises(UsageError, match=r"8 classes, but .* 3 outputs: .*protonet"):
        fedmeta.load(runs / "digits").adapt(x, y)
    for name in ("protonet", "pretrained"):
        assert fedmeta.load(runs / name).adapt(x, y).predict(x).shape == (8, 8)


@pytest.mark.parametrize("name", ["conv4", "protonet"])
def test_a_prediction_does_not_depend_on_other_examples(runs: Path, name: str) -> None:
    learned, mine = fedmeta.load(runs / name), task(runs / name)
    adapted = learned.adapt(mine.support_x[0], mine.support_y[0])
    together = adapted.predict(mine.query_x[0])
    alone = torch.cat([adapted.predict(one.unsqueeze(0)) for one in mine.query_x[0]])
    assert torch.allclose(together, alone, atol=1e-6)
    other = learned.adapt(mine.support_x[0], mine.support_y[0], transductive=True)
    assert not torch.allclose(other.predict(mine.query_x[0]), together, atol=1e-4)


def test_many_examples_are_predicted_as_few_are(runs: Path) -> None:
    learned, mine = fedmeta.load(runs / "conv4"), task(runs / "conv4")
    adapted = learned.adapt(mine.support_x[0], mine.support_y[0])
    many = mine.query_x[0].repeat(60, 1, 1, 1)
    assert torch.allclose(adapted.predict(many)[-6:], adapted.predict(mine.query_x[0]), atol=1e-6)


def test_labels_that_mean_the_same_in_every_task_are_numbers_of_outputs(tmp_path: Path) -> None:
    data = {**DIGITS["data"], "labels": "global"}
    learned = Learned.open(run(Config(**{**DIGITS, "data": data}), out=tmp_path / "r").run)
    assert learned.max_ways == 10
    x = torch.rand(4, 1, 8, 8)
    adapted = learned.adapt(x, ["7", "2", "2", "7"], steps=200)
    assert adapted.classes == tuple("0123456789")
    assert adapted.predict(x).argmax(1).tolist() == [7, 2, 2, 7]
    with pytest.raises(UsageError, match="name classes by number, from 0 to 9"):
        learned.adapt(x, ["7", "2", "2", "ten"])


class Assays:
    """Molecules are four numbers; an active one has more in the first."""

    Options: ClassVar[type[Options]] = Options
    spec = TaskSpec("screening", (4,), 2)

    def __init__(self, options: Options, population: Population, seed: int) -> None:
        self.population = population

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        y = torch.tensor([0, 1, 0, 1]).repeat(count, 1)
        halves = [torch.from_numpy(rng.normal(size=(count, 4, 4))).float() for _ in range(2)]
        for x in halves:
            x[..., 0] += 3 * y
        return TaskBatch(*({"x": x, "y": y} for x in halves))


def test_labels_of_a_screening_are_names_that_the_order_of_letters_does_not_change(
    tmp_path: Path,
) -> None:
    values = {**DIGITS, "task": f"{__name__}:Assays", "data": {}}
    learned = Learned.open(run(Config(**values), out=tmp_path / "r").run)
    x = torch.tensor([[9.0, 0, 0, 0], [-9.0, 0, 0, 0]])
    adapted = learned.adapt(x, ["active", "inactive"], steps=50)
    assert adapted.classes == ("inactive", "active")
    assert adapted.predict(x).argmax(1).tolist() == [1, 0]
    assert learned.adapt(x, ["1", "0"]).classes == ("0", "1")
    for labels in (["active", "idle"], ["1", "active"]):
        with pytest.raises(UsageError, match="call them 'inactive' and 'active', or by number, from 0"):
            learned.adapt(x, labels)


@pytest.mark.parametrize(
    ("values", "have"),
    [
        (
            {
                **DIGITS,
                "algorithm": "mann",
                "network": {"hidden": []},
                "learner": {"slots": 4, "hidden": 4, "width": 4},
                "data": {"ways": 3, "queries": 2, "order": "sequence"},
            },
            "sequences",
        ),
        (
            {**DIGITS, "task": "navigation", "data": {"episodes": 2, "horizon": 2}},
            "episodes",
        ),
    ],
)
def test_tasks_without_examples_to_adapt_to_are_said_in_one_line(
    tmp_path: Path, values: dict[str, Any], have: str
) -> None:
    learned = Learned.open(run(Config(**values), out=tmp_path / "r").run)
    with pytest.raises(UsageError, match=f"its tasks are {have}, which have no support set"):
        learned.adapt(torch.rand(2, 1, 8, 8), [0, 1])


def test_more_steps_fit_the_support_better(runs: Path) -> None:
    learned, mine = fedmeta.load(runs / "digits"), task(runs / "digits")
    x, y = mine.support_x[0], mine.support_y[0]
    chances = [float(learned.adapt(x, y, steps).predict(x)[range(6), y].mean()) for steps in (0, 5, 50)]
    assert chances[0] < chances[1] < chances[2]
    assert torch.equal(learned.adapt(x, y).predict(x), learned.adapt(x, y, 3).predict(x))


@pytest.mark.parametrize(
    ("x", "y", "more", "message"),
    [
        (torch.rand(3, 1, 9, 9), [0, 1, 2], {}, r"support_x has shape \[3, 1, 9, 9\], but this run"),
        (torch.rand(3, 1, 8, 8), [0, 1], {}, "2 entries for 3 examples"),
        (torch.rand(1, 1, 8, 8), torch.tensor(0), {}, "an entry for each example"),
        (torch.rand(2, 1, 8, 8), [0, 0], {}, "only one class"),
        (torch.rand(2, 1, 8, 8), [0, "a"], {}, "labels of one type"),
        (torch.rand(2, 1, 8, 8), [[0], [1]], {}, "one label per example"),
        (torch.full((2, 1, 8, 8), float("nan")), [0, 1], {}, "not finite"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), [0, 1], {}, "is uint8"),
        (torch.zeros(0, 1, 8, 8), [], {}, "no example"),
        ([["a"]], [0], {}, "not an array of numbers"),
        ([[1.0], [1.0, 2.0]], [0, 1], {}, "rows differ in length"),
        (torch.rand(2, 1, 8, 8), [0, 1], {"steps": -1}, "steps must be 0 or more"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    runs: Path, x: Any, y: Any, more: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        fedmeta.load(runs / "digits").adapt(x, y, **more)
    assert "\n" not in str(caught.value)


def test_regression_wants_as_many_values_as_outputs(runs: Path) -> None:
    learned = fedmeta.load(runs / "sinusoid")
    x = np.linspace(-3, 3, 6)
    assert learned.adapt(x[:, None], np.sin(x)).predict(x[:, None]).shape == (6, 1)
    with pytest.raises(UsageError, match="1 finite numbers per example"):
        learned.adapt(x[:, None], np.full(6, np.inf))


def test_divergence_is_reported(runs: Path) -> None:
    learned = fedmeta.load(runs / "sinusoid")
    x = np.linspace(-1e20, 1e20, 6)[:, None]
    with pytest.raises(DivergedError, match="diverged in 30 adaptation steps"):
        learned.adapt(x, x, steps=30)


def test_the_newest_valid_checkpoint_is_used_and_damage_reported(runs: Path, tmp_path: Path) -> None:
    run(Config(**RUNS["sinusoid"]), out=tmp_path / "r")
    newest = tmp_path / "r" / "checkpoints" / "round-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    learned = Learned.open(tmp_path / "r")
    assert learned.round == 2
    assert "round-000003.safetensors" in learned.notes[0]
    for file in (tmp_path / "r" / "checkpoints").glob("*.json"):
        file.unlink()
    with pytest.raises(UsageError, match=r"no checkpoint to load: .*round-000003"):
        Learned.open(tmp_path / "r")


def test_the_best_checkpoint_is_that_of_the_manifest(runs: Path) -> None:
    learned = Learned.open(runs / "sinusoid", best=True)
    store = learned.folder.checkpoints
    assert learned.round == store.load(3)[1].best_round
    for found in store.newest_first():
        assert not isinstance(found, DamagedCheckpointError)
        if found[0].round == learned.round:
            assert all(torch.equal(found[0].state[key], value) for key, value in learned.state.items())


def test_a_run_whose_data_is_gone_still_adapts(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fedmeta.experiment.learned.model.build_family", lambda *_: pytest.fail("read data")
    )
    assert fedmeta.load(runs / "digits").spec.outputs == 3


def test_a_run_of_an_older_version_takes_the_shape_from_its_data(runs: Path, tmp_path: Path) -> None:
    run(Config(**RUNS["sinusoid"]), out=tmp_path / "r")
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    spec = info.pop("spec")
    (tmp_path / "r" / "run.json").write_text(json.dumps(info))
    learned = Learned.open(tmp_path / "r")
    assert asdict(learned.spec) == spec | {"input_shape": tuple(spec["input_shape"])}


def test_a_run_with_a_model_per_client_has_none_to_load(tmp_path: Path) -> None:
    run(Config(**{**RUNS["sinusoid"], "training": "local"}), out=tmp_path / "r")
    with pytest.raises(UsageError, match="one model per client"):
        Learned.open(tmp_path / "r")


def plain_conv4(width: int, head: int | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (1, width, width, width):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    end = [nn.Linear(width, head)] if head else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *end).eval()


def saved(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118


def test_saved_weights_predict_the_same_in_a_plain_network(runs: Path, tmp_path: Path) -> None:
    learned, mine = fedmeta.load(runs / "conv4"), task(runs / "conv4")
    adapted = learned.adapt(mine.support_x[0], [("x", "y", "z")[i] for i in mine.support_y[0]], steps=4)
    adapted.save(tmp_path / "a.safetensors")
    tensors, about = saved(tmp_path / "a.safetensors")
    model = plain_conv4(4, 3)
    model.load_state_dict(tensors)
    with torch.no_grad():
        said = model(mine.query_x[0]).softmax(-1)
    assert torch.allclose(said, adapted.predict(mine.query_x[0]), atol=1e-6)
    assert about == {
        "run": "conv4",
        "round": 3,
        "algorithm": "maml",
        "classes": ["x", "y", "z"],
        "steps": 4,
    }


def test_saved_prototypes_predict_the_same_by_distance(runs: Path, tmp_path: Path) -> None:
    learned, mine = fedmeta.load(runs / "protonet"), task(runs / "protonet")
    adapted = learned.adapt(mine.support_x[0], mine.support_y[0])
    adapted.save(tmp_path / "a.safetensors")
    tensors, _ = saved(tmp_path / "a.safetensors")
    prototypes = tensors.pop("prototypes")
    model = plain_conv4(4, None)
    model.load_state_dict(tensors)
    with torch.no_grad():
        said = (-(torch.cdist(model(mine.query_x[0]), prototypes) ** 2)).softmax(-1)
    assert torch.allclose(said, adapted.predict(mine.query_x[0]), atol=1e-5)


def test_a_learned_optimizer_exports_the_weights_that_it_starts_from(runs: Path, tmp_path: Path) -> None:
    learned = fedmeta.load(runs / "coordinatewise_lstm")
    learned.export(tmp_path / "m.safetensors")
    tensors, _ = saved(tmp_path / "m.safetensors")
    x = task(runs / "coordinatewise_lstm").query_x[0]
    hidden = x.flatten(1) @ tensors["1.weight"].T + tensors["1.bias"]
    said = hidden.relu() @ tensors["3.weight"].T + tensors["3.bias"]
    mine = task(runs / "coordinatewise_lstm")
    start = learned.adapt(mine.support_x[0], mine.support_y[0], steps=0)
    assert torch.allclose(said.softmax(-1), start.predict(x), atol=1e-6)


def test_export_leaves_out_tensors_that_are_not_weights_and_says_so(runs: Path, tmp_path: Path) -> None:
    learned = fedmeta.load(runs / "meta_sgd")
    learned.export(tmp_path / "m.safetensors")
    tensors, about = saved(tmp_path / "m.safetensors")
    assert sorted(tensors) == ["1.bias", "1.weight", "3.bias", "3.weight"]
    assert torch.equal(tensors["1.weight"], learned.state["hidden0.weight"].T)
    assert learned.beside_weights == sorted(f"lr.{key}" for key in learned.state if "lr." not in key)
    assert about == {"run": "meta_sgd", "round": 3, "algorithm": "meta_sgd"}
    with pytest.raises(UsageError, match="cannot write to"):
        learned.export(tmp_path / "none" / "m.safetensors")


def test_a_loaded_run_knows_its_result(runs: Path) -> None:
    learned = fedmeta.load(str(runs / "digits"))
    assert [row["step"] for row in learned.final] == [0, 1, 3]
    assert [row["round"] for row in learned.metrics] == [1, 2, 3]
    assert learned.max_ways == 3
    assert fedmeta.load(runs / "protonet").max_ways is None
