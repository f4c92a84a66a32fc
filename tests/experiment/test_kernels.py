"""Which kernels a run uses, and that it keeps them."""

from pathlib import Path
from typing import Any

import pytest

import fedmeta
from fedmeta.config.identity import run_id
from fedmeta.experiment import Config, RunFolder, planning
from tests.experiment.helpers import TINY, contents
from tests.kernels import needs_kernels

pytestmark = needs_kernels


def made(folder: Path, **changes: Any) -> RunFolder:
    return RunFolder.open(fedmeta.run(Config(**TINY | {"rounds": 4} | changes), out=folder).run)


def computed(folder: Path) -> dict[str, bytes]:
    """Checkpoints and records, which have neither times nor the config."""
    names = [name for name in contents(folder) if name.endswith((".safetensors", "clients.jsonl"))]
    return {name: contents(folder)[name] for name in names}


@pytest.mark.parametrize(
    ("changes", "kernels"),
    [
        ({}, "native"),
        ({"model": "tests.learning.cases:UserNet", "network": {"channels": 4}}, "eager"),
        ({"compile": True}, "eager"),
        ({"compile": True, "kernels": "native"}, "eager"),
        ({"engine": "ray"}, "native"),
        ({"engine": "deployment"}, "eager"),
        ({"engine": "deployment", "kernels": "native"}, "native"),
        ({"kernels": "eager"}, "eager"),
    ],
)
def test_a_run_has_native_kernels_where_there_are_any(changes: dict[str, Any], kernels: str) -> None:
    assert planning.with_processor(Config(**TINY | changes)).kernels == kernels


def test_a_run_with_kernels_is_another_run_and_nearly_the_same_numbers(tmp_path: Path) -> None:
    native, eager = made(tmp_path / "native"), made(tmp_path / "eager", kernels="eager")
    assert native.config.kernels == "native"
    assert run_id(native.config) != run_id(eager.config)
    assert computed(native.path) != computed(eager.path)
    for one, other in zip(native.metrics(), eager.metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_run_with_autograd_has_the_id_from_before_the_key_existed() -> None:
    config = Config(**TINY)
    assert run_id(config.model_copy(update={"kernels": "eager"})) == run_id(config)


def test_a_run_from_before_the_key_existed_resumes_with_autograd(tmp_path: Path) -> None:
    """Its config.toml does not name the key."""
    whole = made(tmp_path / "whole", kernels="eager", rounds=6, server={"schedule": "constant"})
    half = made(tmp_path / "half", kernels="eager", rounds=3, server={"schedule": "constant"})
    file = half.path / "config.toml"
    file.write_text(file.read_text().replace('kernels = "eager"\n', ""))
    fedmeta.resume(half.path, {"rounds": 6})
    assert RunFolder.open(half.path).config.kernels == "eager"
    newest = "checkpoints/round-000006.safetensors"
    assert (half.path / newest).read_bytes() == (whole.path / newest).read_bytes()


def test_a_resumed_run_keeps_its_kernels_unless_told_otherwise(tmp_path: Path) -> None:
    run = made(tmp_path / "run", server={"schedule": "constant"})
    fedmeta.resume(run.path, {"rounds": 5})
    assert RunFolder.open(run.path).config.kernels == "native"
    fedmeta.resume(run.path, {"rounds": 6, "kernels": "eager"})
    entries = RunFolder.open(run.path).info["made"]
    # Autograd is what runs had before the key, so it is not named.
    assert [entry["settings"].get("kernels") for entry in entries] == ["native", None]
