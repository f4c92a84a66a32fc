"""Runs on real SuperNodes give the results of every engine, whichever process is killed."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedmeta.config import to_toml
from fedmeta.errors import RunError
from fedmeta.experiment import Config, Listener, Result, RunFolder, resume, run
from fedmeta.federation.engines.deployment.local import Layout, LocalFederation, free_port, run_local
from tests.experiment.deployed import DIGITS, PAIR, on, rounds_of, wait_until
from tests.experiment.helpers import fedmeta, start
from tests.tasks.conftest import real_file


def state(path: Path) -> dict[str, torch.Tensor]:
    newest = sorted((path / "checkpoints").glob("*.safetensors"))[-1]
    return {key: value for key, value in load_file(newest).items() if key.startswith("state.")}


def cohorts(path: Path) -> list[tuple[int, int]]:
    return [(row["round"], row["client"]) for row in RunFolder.open(path).clients()]


def assert_agree(path: Path, reference: Path) -> None:
    """Parameters to 1e-5, held-out accuracy to 0.2 points, and the same clients in every round."""
    expected = state(reference)
    for key, value in state(path).items():
        assert (value - expected[key]).abs().max() <= 1e-5 * expected[key].abs().max()
    ours, theirs = (RunFolder.open(one).info["final"] for one in (path, reference))
    for mine, other in zip(ours, theirs, strict=True):
        assert abs(mine["accuracy"] - other["accuracy"]) <= 0.002
    assert cohorts(path) == cohorts(reference)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Four SuperNodes with registered keys, over TLS."""
    layout = Layout(tmp_path_factory.mktemp("federation"), 4, free_port(), secure=True)
    with run_local(layout) as federation:
        yield federation


@pytest.fixture
def open_pair(tmp_path: Path) -> Callable[[], Any]:
    """Two SuperNodes, to be killed."""
    count = iter(range(9))

    def open_one() -> Any:
        return run_local(Layout(tmp_path / f"federation-{next(count)}", 2, free_port()))

    return open_one


@pytest.mark.timeout(280)
def test_two_registered_nodes_over_tls_compute_what_one_process_does(tmp_path: Path) -> None:
    config = Config(**PAIR | {"rounds": 1})
    run(config, out=tmp_path / "vector")
    with run_local(Layout(tmp_path / "federation", 2, free_port(), secure=True)) as federation:
        run(config, on(federation), out=tmp_path / "deployment")
    assert_agree(tmp_path / "deployment", tmp_path / "vector")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_on_vector_ray_and_four_authenticated_nodes(
    secure: LocalFederation, tmp_path: Path
) -> None:
    config = Config(**DIGITS)
    run(config, out=tmp_path / "vector")
    (tmp_path / "digits.toml").write_text(to_toml(config))
    # In a process of its own, as Ray leaves threads and processes to the end of the one that used it.
    on_ray = fedmeta("run", "digits.toml", "-s", "engine=ray", "--out", "ray", cwd=tmp_path)
    assert on_ray.returncode == 0, on_ray.stderr
    for again in ("one", "two"):
        run(config, on(secure), out=tmp_path / again)
    for other in ("ray", "one", "two"):
        assert_agree(tmp_path / other, tmp_path / "vector")
    for key, value in state(tmp_path / "one").items():
        assert torch.equal(value, state(tmp_path / "two")[key])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_server_is_killed_resumes_on_any_engine(
    secure: LocalFederation, tmp_path: Path
) -> None:
    config = Config(**DIGITS | {"rounds": 4})
    run(config, out=tmp_path / "undisturbed")
    (tmp_path / "digits.toml").write_text(to_toml(Config(**config.model_dump() | on(secure))))
    path = tmp_path / "killed"
    process = start("run", "digits.toml", "--out", str(path), cwd=tmp_path)
    wait_until(lambda: rounds_of(path) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = RunFolder.open(path).checkpoints.rounds()[0]
    assert 1 <= finished < 4
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(path, elsewhere)

    there = fedmeta("resume", str(path), "--json", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["engine"] == "deployment"
    assert resume(elsewhere, {"engine": "vector"}).engine == "vector"
    for folder in (path, elsewhere):
        assert [row["round"] for row in RunFolder.open(folder).metrics()] == [1, 2, 3, 4]
        assert_agree(folder, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_proceeds_without_a_killed_supernode(
    open_pair: Callable[[], Any], tmp_path: Path
) -> None:
    config = Config(**PAIR | {"timeout": 40.0})
    path = tmp_path / "run"
    (tmp_path / "pair.toml").write_text(to_toml(config))
    with open_pair() as federation:
        settings = ["-s", "engine=deployment", "-s", f"deployment.address={federation.options.address}"]
        process = start("run", "pair.toml", "--out", str(path), *settings, cwd=tmp_path)
        wait_until(lambda: rounds_of(path) >= 1)
        began = time.monotonic()
        os.killpg(federation.nodes[1].pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
        took = time.monotonic() - began
    assert process.returncode == 0, errors
    rows = RunFolder.open(path).metrics()
    assert [row["admitted"] for row in rows] == [2, 1, 1]
    assert [row["lost"] for row in rows] == [0, 1, 1]
    assert took < 2 * 40 + 60, "each round ends by its deadline"
    assert "Traceback" not in output + errors


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_superlink_ends_the_run_and_another_can_resume_it(
    open_pair: Callable[[], Any], tmp_path: Path
) -> None:
    config, path = Config(**PAIR | {"rounds": 3}), tmp_path / "run"
    run(config, out=tmp_path / "undisturbed")

    def kill(record: object) -> None:
        os.killpg(federation.superlink.pid, signal.SIGKILL)
        federation.superlink.wait()  # as whoever started one does; Flower's programs then see it gone

    with open_pair() as federation:
        began = time.monotonic()
        with pytest.raises(RunError, match=r"the SuperLink ended the run|has not answered"):
            run(config, on(federation), out=path, listener=Listener(round=kill))
        assert time.monotonic() - began < 150
    assert RunFolder.open(path).status == "failed"
    assert RunFolder.open(path).checkpoints.rounds()[0] == 1
    with open_pair() as federation:
        result: Result = resume(path, {"deployment.address": federation.options.address})
    assert result.status == "finished"
    for key, value in state(path).items():
        expected = state(tmp_path / "undisturbed")[key]
        assert (value - expected).abs().max() <= 1e-5 * expected.abs().max()


SPEAKERS = {
    "task": "shakespeare",
    "model": "lstm",
    "rounds": 1,
    "clients": 2,
    "test_clients": 1,
    "cohort": 1,
    "data": {"length": 8, "shots": 4, "queries": 2},
    "network": {"embedding": 4, "hidden": 8},
    "evaluation": {"tasks": 2, "steps": [0, 1]},
}


def without_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the data from this process and those that it starts."""
    path.mkdir()
    monkeypatch.setenv("FEDMETA_DATA", str(path))
    monkeypatch.setenv("FEDMETA_CACHE", str(path))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_data_stay_where_the_nodes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = real_file("tinyshakespeare/input.txt").parents[1]
    config = Config(**DIGITS | SPEAKERS)
    run(config, out=tmp_path / "vector")
    without_data(tmp_path / "nothing", monkeypatch)
    layout = Layout(tmp_path / "federation", 2, free_port(), data={0: data, 1: data})
    with run_local(layout) as federation:
        run(config, on(federation), out=tmp_path / "deployment")
    assert_agree(tmp_path / "deployment", tmp_path / "vector")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_without_its_data_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = real_file("tinyshakespeare/input.txt").parents[1]
    without_data(tmp_path / "nothing", monkeypatch)
    (tmp_path / "speakers.toml").write_text(to_toml(Config(**DIGITS | SPEAKERS)))
    layout = Layout(tmp_path / "federation", 2, free_port(), data={0: data})
    with run_local(layout) as federation:
        settings = ["-s", "engine=deployment", "-s", f"deployment.address={federation.options.address}"]
        began = time.monotonic()
        ended = fedmeta("run", "speakers.toml", "--out", "run", *settings, cwd=tmp_path)
        assert time.monotonic() - began < DIGITS["timeout"]
    assert ended.returncode == 2
    assert "cannot take part: MissingDataError: tinyshakespeare/input.txt is not in" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_no_superlink_is_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = ["-s", "engine=deployment", "-s", f"deployment.address={address}"]
    ended = fedmeta("run", "quickstart", *settings, "--out", "run", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"fedmeta: no SuperLink at {address}: Connection refused; "
        "start one with `fedmeta federation up`, or set deployment.address"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_chain_needs_the_accounts_of_nodes(tmp_path: Path) -> None:
    settings = ["-s", "engine=deployment", "-s", "chain.provider=embedded"]
    ended = fedmeta("run", "quickstart", *settings, "--out", "run", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "set deployment.roster to the file that `fedmeta federation admit` wrote" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stake", [1, 1000, 10**6])
def test_no_stake_is_lent_to_nodes_that_may_keep_it(stake: int) -> None:
    staking = {"enabled": True, "stake": stake}
    paid = PAIR | {"engine": "deployment", "deployment": {"roster": "roster.json"}}
    with pytest.raises(ValueError, match="owners of nodes could withdraw them"):
        Config(**paid | {"chain": {"provider": "anvil", "staking": staking}})
    Config(**paid | {"chain": {"provider": "anvil"}})
    Config(**paid | {"engine": "vector", "chain": {"provider": "anvil", "staking": staking}})


def test_a_network_without_tls_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    settings = ["-s", "engine=deployment", "-s", "deployment.address=192.0.2.7:8000"]
    ended = fedmeta("run", "quickstart", *settings, "--out", "run", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "fedmeta: 192.0.2.7:8000 is not on this machine, and traffic without a certificate is not "
        "encrypted: name its authority's certificate, or set deployment.insecure=true"
    ]
    assert list(tmp_path.iterdir()) == []
