"""Whole runs on another device: results come back to the CPU, and the device is part of the run."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedmeta
from fedmeta.comparison.run_reuse import run_key
from fedmeta.config import Config
from fedmeta.errors import ConfigError
from fedmeta.experiment import planning
from fedmeta.experiment.learned import model
from fedmeta.experiment.made_with import data_of, difference, made_entries, made_with
from fedmeta.federation import learner
from fedmeta.federation.codec import Codec, tensors_digest
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.engines.vector.pool import build_executor
from tests.experiment.helpers import TINY, contents
from tests.second_device import NAME, SecondDevice

DIGITS = TINY | {
    "task": "digits",
    "data": {"ways": 3, "shots": 1, "queries": 2},
    "rounds": 2,
    "network": {"hidden": [8]},
}
RUNS: dict[str, dict[str, Any]] = {
    "MAML": {},
    "SCAFFOLD, local steps, clipped": {
        "algorithm": "scaffold",
        "local_steps": 2,
        "postprocessors": [
            {"kind": "clip", "stage": stage, "norm": 0.5} for stage in ("task", "client", "server")
        ],
    },
    "centralized": {"training": "centralized"},
    "local": {"training": "local", "local_steps": 2},
    "those who misbehave": {
        "behaviours": [
            {"kind": "disguised-copy", "clients": [3], "of": 0},
            {"kind": "noisy-data", "clients": [4]},
            {"kind": "little-data", "clients": [5]},
            {"kind": "sybil", "clients": [1], "owner": 2},
        ]
    },
    "digits, Shapley values": DIGITS | {"incentives": {"rule": "shapley", "tasks": 4}},
    "digits, prototypes": DIGITS | {"algorithm": "protonet"},
    "digits, pooled Conv4": DIGITS
    | {
        "model": "conv4",
        "network": {"width": 4, "pooling": "max"},
        "data": {"ways": 3, "shots": 1, "queries": 2, "layout": "image"},
    },
    "a robust rule": {"cohort": 6, "aggregation": {"rule": "trimmed-mean"}},
}
LARGE: dict[str, dict[str, Any]] = {
    "shakespeare, LSTM": {
        "task": "shakespeare",
        "model": "lstm",
        "data": {"length": 10, "shots": 4, "queries": 4},
        "network": {"hidden": 8},
    },
    "omniglot, Conv4": {
        "task": "omniglot",
        "model": "conv4",
        "data": {"partition": "iid", "validation_characters": 0.2},
        "network": {"width": 4},
    },
}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `cuda` be the second device."""

    def use(name: str) -> torch.device:
        return torch.device(NAME if name == "cuda" else "cpu")

    monkeypatch.setattr(learner, "use_device", use)
    monkeypatch.setattr(model, "use_device", use)


def run(folder: Path, **changes: Any) -> fedmeta.Result:
    config = TINY | {
        "rounds": 2,
        "kernels": "eager",
        "evaluation": {"tasks": 4, "steps": [0, 2], "every": 1, "track": 1},
    }
    return fedmeta.run(Config(**config | changes), out=folder)


def computed(folder: Path) -> dict[str, bytes]:
    """What a run computed; manifests digest what clients remember, whose own file counts its writes."""
    return {name: data for name, data in contents(folder).items() if name != "clients.sqlite"}


def require_same_on_both(folder: Path, changes: dict[str, Any]) -> None:
    run(folder / "here", **changes)
    with SecondDevice() as there:
        run(folder / "there", **changes, device="cuda")
    assert there.computed > 100
    assert computed(folder / "there") == computed(folder / "here")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_on_another_device_computes_there_and_is_the_same(name: str, tmp_path: Path) -> None:
    require_same_on_both(tmp_path, RUNS[name])
    drawn = [(tmp_path / side / "examples.safetensors").read_bytes() for side in ("here", "there")]
    assert drawn[0] == drawn[1]
    final = [json.loads((tmp_path / s / "run.json").read_text())["final"] for s in ("here", "there")]
    assert final[0] == final[1]


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.skipif("FEDMETA_DATA" not in os.environ, reason="FEDMETA_DATA is not set")
@pytest.mark.parametrize("name", list(LARGE))
def test_real_data_go_to_another_device(name: str, tmp_path: Path) -> None:
    require_same_on_both(tmp_path, LARGE[name])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("changes", [{}, DIGITS], ids=["sinusoid", "digits"])
def test_a_run_is_adapted_on_another_device(changes: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "run", **changes)
    here = fedmeta.load(tmp_path / "run")
    x = np.random.default_rng(0).random((6, *here.spec.input_shape), np.float32)
    y = np.arange(6) % 3 if changes else x.sum(-1, keepdims=True)
    expected = here.adapt(x, y, 2)
    with SecondDevice():
        there = fedmeta.load(tmp_path / "run", device="cuda").adapt(x, y, 2)
        assert all(value.is_meta for value in there.weights.values())
        assert np.array_equal(there.predict(x), expected.predict(x))
        assert torch.equal(there.predict(torch.from_numpy(x)), expected.predict(torch.from_numpy(x)))
        there.save(tmp_path / "there.safetensors")
    expected.save(tmp_path / "here.safetensors")
    saved = [(tmp_path / f"{side}.safetensors").read_bytes() for side in ("here", "there")]
    assert saved[0] == saved[1]


def test_sent_and_digested_tensors_may_be_on_any_device() -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}
    codec = Codec(state)
    with SecondDevice():
        moved = {key: value.to(NAME) for key, value in state.items()}
        assert tensors_digest(moved) == tensors_digest(state)
        assert codec.digest(codec.encode(moved)) == codec.digest(codec.encode(state))


def test_the_resolved_device_is_in_the_config_of_a_run(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("auto is a GPU here")
    run(tmp_path / "run", device="auto")
    assert fedmeta.RunFolder(tmp_path / "run").config.device == "cpu"
    fedmeta.resume(tmp_path / "run", {"rounds": 3, "device": "auto"})
    assert fedmeta.RunFolder(tmp_path / "run").config.device == "cpu"


@pytest.mark.parametrize(
    ("asked", "settings", "expected"),
    [
        ("auto", {}, "cuda"),
        ("auto", {"workers": 2}, "cpu"),
        ("auto", {"engine": "ray"}, "cpu"),
        ("auto", {"engine": "deployment"}, "cpu"),
        ("cpu", {}, "cpu"),
    ],
)
def test_auto_takes_a_gpu_for_clients_of_this_process(
    asked: str, settings: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto = {key: value for key, value in TINY.items() if key != "workers"}
    config = Config(**auto | settings | {"device": asked})
    assert planning.with_processor(config).device == expected


@pytest.mark.parametrize("settings", [{"workers": 2}, {"engine": "ray"}])
def test_one_process_has_the_gpu(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one process has the GPU to itself"):
        fedmeta.run("quickstart", {"device": "cuda", **settings}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpu_is_not_shared_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    built = planning.check(planning.resolve(Config(**TINY)))
    monkeypatch.setattr(built, "device", torch.device("cuda", 0))
    assert isinstance(build_executor(built, "auto", 1000), InProcess)


def test_cuda_where_there_is_none_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: no CUDA device found"):
        run(tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()
    run(tmp_path / "here")
    before = contents(tmp_path / "here")
    with pytest.raises(ConfigError, match="device: no CUDA device found"):
        fedmeta.resume(tmp_path / "here", {"device": "cuda", "rounds": 3})
    assert contents(tmp_path / "here") == before


@pytest.mark.usefixtures("elsewhere")
def test_a_run_that_changed_its_device_counts_for_neither_device(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with SecondDevice():
        resumed = fedmeta.resume(tmp_path / "run", {"device": "cuda", "rounds": 3})
    folder = fedmeta.RunFolder(resumed.run)
    for device in ("cpu", "cuda"):
        config = folder.config.model_copy(update={"device": device})
        why = difference(made_entries(folder.info), made_with(config, data_of(config)))
        assert why == "from round 3 on it was made differently (device = cuda, not cpu)"


def test_comparisons_take_no_run_of_another_device() -> None:
    here = planning.resolve(Config(**TINY))
    assert run_key(here) != run_key(here.model_copy(update={"device": "cuda"}))


def test_arms_are_computed_on_one_device(tmp_path: Path) -> None:
    config = Config(**TINY | {"compare": {"arms": {"fast": {"device": "cuda"}}}})
    execution = fedmeta.Execution(out=tmp_path / "compared")
    with pytest.raises(ConfigError, match="device differs from the experiment"):
        fedmeta.compare(config, arms=["fast", "federated"], seeds=1, execution=execution)
    assert not execution.out.exists()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", list(RUNS))
def test_a_gpu_repeats_itself_and_agrees_with_the_cpu(name: str, tmp_path: Path) -> None:
    run(tmp_path / "here", **RUNS[name])
    for again in ("one", "two"):
        run(tmp_path / again, **RUNS[name], device="cuda")
    assert computed(tmp_path / "one") == computed(tmp_path / "two")
    states = [fedmeta.load(tmp_path / side).state for side in ("here", "one")]
    for key, value in states[0].items():
        assert torch.allclose(states[1][key], value, rtol=1e-3, atol=1e-4), key
