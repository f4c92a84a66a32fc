"""A run's explanations: written at its end, the same bytes each time, and changing nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmeta.config import Config
from fedmeta.errors import DataError
from fedmeta.experiment import explain, explanations, run
from fedmeta.experiment.explanations import EXPLANATIONS, Explanations
from tests.experiment.helpers import TINY, contents

DIGITS: dict[str, Any] = TINY | {
    "task": "digits",
    "rounds": 1,
    "data": {"ways": 3, "shots": 2, "queries": 2},
    "evaluation": {"tasks": 2, "steps": [0, 2]},
    "kernels": "eager",
}
GLOBAL = ("fedavg", "fedprox", "scaffold", "pretrained")


def explained(folder: Path, **settings: Any) -> Explanations:
    found = explanations.read(run(Config(**DIGITS | settings), out=folder).run)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name", ["maml", "protonet", "mann", "anil", "pretrained", "metaoptnet", "snail"]
)
def test_each_kind_of_method_is_explained(name: str, tmp_path: Path) -> None:
    data = DIGITS["data"] | ({"labels": "global"} if name in GLOBAL else {})
    found = explained(tmp_path / "run", algorithm=name, data=data)
    assert [task.client for task in found.tasks] == [7, 8]
    weighs = name in ("protonet", "mann", "snail")
    for task in found.tasks:
        assert task.how == ("weights" if weighs else "leave-one-out")
        assert len(task.queries) == 6
        assert all(len(one.support) == 6 for one in task.queries)
        assert len(task.maps) == 2
        assert bool(task.changes) == bool(task.similarities) == (name in ("maml", "anil", "pretrained"))
        assert (task.memory is not None) == (name == "mann")
    assert found.rates == []


def test_predictions_are_those_of_the_example_tasks(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    found = explained(tmp_path / "run", algorithm="maml")
    tensors = load_file(tmp_path / "run" / "examples.safetensors")
    for number, task in enumerate(found.tasks):
        assert task.support == tensors[f"{number}.support_y"].tolist()
        for one in task.queries:
            said = tensors[f"{number}.after"][one.query]
            assert one.predicted == int(said.argmax())
            assert one.probability == pytest.approx(float(said.max()), rel=1e-4)
            assert one.label == int(tensors[f"{number}.query_y"][one.query])


def test_an_explanation_is_the_same_bytes_and_changes_nothing_else(tmp_path: Path) -> None:
    for name, explain_ in (("one", 2), ("other", 2), ("none", 0)):
        config = Config(**DIGITS | {"evaluation": DIGITS["evaluation"] | {"explain": explain_}})
        run(config, out=tmp_path / name)
    one, other, none = (tmp_path / name for name in ("one", "other", "none"))
    assert (one / EXPLANATIONS).read_bytes() == (other / EXPLANATIONS).read_bytes()
    assert not (none / EXPLANATIONS).exists()
    assert contents(one) == contents(none)
    for name in ("test.jsonl", "examples.safetensors"):
        assert (one / name).read_bytes() == (none / name).read_bytes()


def test_the_number_of_explained_tasks_does_not_make_another_run() -> None:
    from fedmeta.config.identity import run_id

    few = Config(**DIGITS | {"evaluation": DIGITS["evaluation"] | {"explain": 1}})
    assert run_id(few) == run_id(Config(**DIGITS))


def test_learned_rates_are_kept_by_step_and_by_tensor(tmp_path: Path) -> None:
    found = explained(tmp_path / "one", algorithm="maml_pp", learner={"inner_steps": 3})
    assert found.initial_rate == 0.1
    assert {len(one.steps) for one in found.rates} == {3}
    found = explained(tmp_path / "two", algorithm="meta_sgd", learner={"inner_lr": 0.02})
    assert found.initial_rate == 0.02
    assert {one.name for one in found.rates} >= {"head.weight", "head.bias"}
    for one in found.rates:
        (rate,) = one.steps
        assert rate.low <= rate.mean <= rate.high


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "sinusoid", "data": {"shots": 5, "queries": 5}},
        {"task": "navigation", "data": {}},
        {"evaluation": {"tasks": 2, "steps": [0], "head": "sklearn.svm.SVC()"}},
        {"data": {"ways": 3, "shots": 1, "queries": 1}, "algorithm": "r2d2"},
        {"data": {"ways": 4, "shots": 16, "queries": 1}},
    ],
)
def test_what_cannot_be_explained_says_why(settings: dict[str, Any], tmp_path: Path) -> None:
    task = explained(tmp_path / "run", **settings).tasks[0]
    if "head" in settings.get("evaluation", {}):
        assert (task.how, task.changes) == ("leave-one-out", [])
    else:
        assert task.how == ""
        assert task.note.endswith(".")
        assert task.queries == []


def test_an_error_in_an_explanation_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user's own network may fail when its layers are looked at."""
    from fedmeta.learning.models.mlp import MLP

    def fails(*_: object) -> None:
        raise RuntimeError("no layers today")

    monkeypatch.setattr(MLP, "activations", fails)
    result = run(Config(**DIGITS), out=tmp_path / "run")
    assert result.status == "finished"
    assert not (tmp_path / "run" / EXPLANATIONS).exists()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = explained(tmp_path / "run")
    explanations.write(tmp_path, found)
    assert explanations.read(tmp_path) == found
    assert (tmp_path / EXPLANATIONS).read_bytes() == (tmp_path / "run" / EXPLANATIONS).read_bytes()


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert explanations.read(tmp_path) is None


GOOD: dict[str, Any] = {
    "kind": "explanations",
    "version": 1,
    "algorithm": "maml",
    "steps": 1,
    "tasks": [],
    "rates": [],
}
TASK: dict[str, Any] = {
    "client": 1,
    "support": [0, 1],
    "queries": [],
    "maps": [],
    "changes": [],
    "similarities": [],
}
QUERY = {"query": 0, "label": 0, "predicted": 0, "probability": 0.5, "support": [0.5]}
MEMORY = {"steps": ["1"], "slots": [0], "reads": [[0.5]], "writes": [[0.5, 0.5]]}
MAP = {
    "name": "n",
    "shares": [1.0, 0.0],
    "separation": None,
    "x": [0.0],
    "y": [0.0],
    "labels": [1],
    "queries": 2,
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[1]", "damaged, or of another version"),
        (json.dumps(GOOD | {"version": 2}), "is of version 2, written by fedmeta ?"),
        (json.dumps(GOOD | {"steps": -1}), "(steps)"),
        (json.dumps(GOOD | {"tasks": [TASK] * 5}), "(tasks)"),
        (json.dumps(GOOD | {"tasks": [TASK | {"queries": [QUERY]}]}), "(tasks.0)"),
        (json.dumps(GOOD | {"tasks": [TASK | {"memory": MEMORY}]}), "(tasks.0.memory)"),
        (json.dumps(GOOD | {"tasks": [TASK | {"maps": [MAP]}]}), "(tasks.0.maps.0)"),
        (json.dumps(GOOD).replace('"steps": 1', '"steps": 1e999'), "(steps)"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / EXPLANATIONS).write_text(text)
    with pytest.raises(DataError) as caught:
        explanations.read(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(EXPLANATIONS)
    assert "\n" not in str(caught.value)


def test_queries_of_all_classes_are_chosen() -> None:
    assert explain._spread([0, 0, 0, 1, 1, 1, 2, 2, 2], 4) == [0, 1, 3, 6]
    assert explain._spread([5], 10) == [0]


def test_torch_is_not_needed_to_read_them() -> None:
    code = "import sys, fedmeta.experiment.explanations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
