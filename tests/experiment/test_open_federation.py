"""Runs on other engines give the same results and can be resumed on either."""

import importlib.util
import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from fedmeta.config import to_toml
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, RunFolder, resume, run
from fedmeta.experiment.api import _check_ledger as check_ledger
from fedmeta.experiment.planning import resolve
from tests.experiment.helpers import TINY, fedmeta, start


def state(path: Path, round_: int) -> dict[str, object]:
    saved = load_file(path / "checkpoints" / f"round-{round_:06d}.safetensors")
    return {key: value for key, value in saved.items() if key.startswith("state.")}


def ray_folders(processes: list[psutil.Process]) -> set[Path]:
    """The folders that Ray's processes were told to work in."""
    commands = [" ".join(process.cmdline()) for process in processes]
    return {Path(found) for command in commands for found in re.findall(r"/tmp/fm-ray-\w+", command)}


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="engine: must be one of 'vector'"):
        run(Config(**TINY), {"engine": "spark"})


def test_ray_without_its_extra_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(UsageError, match="needs the extra"):
        run(Config(**TINY), {"engine": "ray"}, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "faults",
    [
        {"rates": {"late": 0.1, "move": 0.1}},
        {"entries": [{"kind": "move", "clients": [1], "rounds": [1]}]},
    ],
)
@pytest.mark.parametrize("engine", ["ray", "deployment"])
def test_another_node_id_is_for_the_engine_whose_nodes_are_ours(
    engine: str, faults: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=f"'move' needs engine = 'vector': on '{engine}' a node's id is"
    ):
        run(Config(**TINY), {"engine": engine, "faults": faults}, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_ray_meets_the_faults_of_its_config(tmp_path: Path) -> None:
    """Faults that end a reply at once; who is late or lost would make each such round last `timeout`."""
    kinds = ("crash-before", "crash-during", "crash-after", "twice", "old-round", "nan", "no-records")
    settings = {
        "rounds": 12,
        "timeout": 300.0,
        "quorum": 1,
        "faults": {"rates": dict.fromkeys(kinds, 0.07)},
    }
    config = Config(**TINY | settings)
    run(config, out=tmp_path / "undisturbed")
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    process = fedmeta("run", "tiny.toml", "--out", "ray", "-s", "engine=ray", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    ours, theirs = (RunFolder.open(tmp_path / name) for name in ("ray", "undisturbed"))

    def fates(folder: RunFolder) -> list[tuple[object, ...]]:
        return [
            tuple(row[key] for key in ("round", "client", "outcome", "reason"))
            for row in folder.clients()
        ]

    assert fates(ours) == fates(theirs)
    assert ours.info["replies"] == theirs.info["replies"]
    assert ours.info["replies"]["quarantined"] > 5


def test_where_clients_run_may_change_on_resume(tmp_path: Path) -> None:
    run(Config(**TINY), {"rounds": 2}, out=tmp_path / "run")
    result = resume(tmp_path / "run", {"rounds": 3, "engine": "vector", "ray.address": "10.0.0.1:6379"})
    assert result.rounds == 3


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_ray_run_whose_server_is_killed_resumes_on_any_engine(tmp_path: Path) -> None:
    """The uninterrupted run is on vector; the killed one begins on Ray and ends on both."""
    settings = {"rounds": 30, "timeout": 300.0}
    config = Config(**TINY | settings)
    run(config, out=tmp_path / "undisturbed")
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    path = tmp_path / "killed"
    process = start("run", "tiny.toml", "--out", str(path), "-s", "engine=ray", cwd=tmp_path)
    while (
        not (path / "metrics.jsonl").exists() or (path / "metrics.jsonl").read_bytes().count(b"\n") < 5
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    [folder] = ray_folders(below)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # Ray's own helpers look for their parent only now and then.
    psutil.wait_procs(below, timeout=120)
    assert [one for one in below if one.is_running() and one.status() != "zombie"] == []
    finished = RunFolder.open(path).checkpoints.rounds()[0]
    assert 4 <= finished < 30
    subprocess.run(["cp", "-r", str(path), str(tmp_path / "elsewhere")], check=True)

    assert folder.exists()
    on_ray = fedmeta("resume", str(path), "--json", cwd=tmp_path)
    assert on_ray.returncode == 0, on_ray.stderr
    assert not folder.exists()
    assert json.loads(on_ray.stdout)["engine"] == "ray"
    elsewhere = resume(tmp_path / "elsewhere", {"engine": "vector"})
    assert elsewhere.engine == "vector"

    expected = state(tmp_path / "undisturbed", 30)
    for folder in (path, tmp_path / "elsewhere"):
        rows = RunFolder.open(folder).metrics()
        assert [row["round"] for row in rows] == list(range(1, 31))
        assert all(row["admitted"] == 4 for row in rows)
        for key, value in state(folder, 30).items():
            assert (value - expected[key]).abs().max() <= 1e-5 * expected[key].abs().max()  # type: ignore[operator, attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_a_ray_run_and_all_of_ray(tmp_path: Path) -> None:
    config = Config(**TINY | {"rounds": 10_000, "timeout": 300.0, "engine": "ray"})
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    process = start("run", "tiny.toml", "--out", "run", cwd=tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "fedmeta: interrupted"
    assert "Traceback" not in output + errors
    psutil.wait_procs(below, timeout=30)
    assert [one for one in below if one.is_running() and one.status() != "zombie"] == []
    assert RunFolder.open(tmp_path / "run").status == "interrupted"


@pytest.mark.parametrize(("made", "wanted"), [("deployment", "vector"), ("vector", "deployment")])
def test_a_paid_run_is_not_resumed_with_other_accounts(made: str, wanted: str, tmp_path: Path) -> None:
    paid = TINY | {"chain": {"provider": "embedded"}, "deployment": {"roster": "roster.json"}}
    folder = RunFolder.create(tmp_path / "run", resolve(Config(**paid | {"engine": made})), {})
    config = folder.config.model_copy(update={"engine": wanted})
    with pytest.raises(
        UsageError,
        match=f"accounts are those of engine = '{made}', so it cannot be resumed with '{wanted}'",
    ):
        check_ledger(folder, config, False)
    assert not (folder.path / "chain").exists()
