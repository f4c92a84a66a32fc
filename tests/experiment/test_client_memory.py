"""Clients' memory on every engine: a killed and resumed run equals an uninterrupted one."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file

from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.federation.engines.deployment.local import Layout, free_port, run_local
from fedmeta.federation.gate import AdmissionGate
from fedmeta.learning.algorithms.scaffold import CONTROL
from tests.experiment.deployed import DIGITS, on, rounds_of, wait_until
from tests.experiment.helpers import fedmeta, start
from tests.federation.helpers import flat

MEMORY: dict[str, Any] = DIGITS | {
    "algorithm": "scaffold",
    "learner": {"inner_lr": 0.1},
    "local_steps": 2,
    "local_lr": 0.1,
    "checkpoint_every": 3,
    "server": {"optimizer": "SGD", "lr": 0.1},
}


def write(folder: Path, **changes: Any) -> str:
    (folder / "memory.toml").write_text(to_toml(Config(**MEMORY | changes)))
    return "memory.toml"


def memories(file: Path) -> dict[tuple[int, int], bytes]:
    """All versions in a file, by client and round."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        rows = db.execute("SELECT client, round, state FROM states").fetchall()
    return {(client, round_): state for client, round_, state in rows}


def counted(path: Path) -> dict[int, int]:
    """The last round of each client whose update counted, by the run's own log."""
    rows = RunFolder.open(path).clients()
    return {row["client"]: row["round"] for row in rows if row["admitted"]}


def of_run(path: Path) -> dict[int, bytes]:
    """Each client's memory according to the run's own file."""
    held = memories(path / "checkpoints" / "clients.sqlite")
    return {client: held[client, round_] for client, round_ in counted(path).items()}


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((path / "checkpoints").glob("*.safetensors"))[-1])


def killed_and_resumed(name: str, rounds: int, folder: Path) -> Path:
    """Run, kill between two checkpoints, and resume."""
    path = folder / "killed"
    process = start("run", name, "--out", str(path), cwd=folder)
    wait_until(lambda: rounds_of(path) >= 4, seconds=500)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert RunFolder.open(path).checkpoints.rounds()[0] < rounds
    resumed = fedmeta("resume", str(path), cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "started afresh" not in resumed.stderr
    assert rounds_of(path) == rounds
    return path


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "rounds"), [("vector", 1500), ("ray", 9)])
def test_killed_and_resumed_clients_remember_the_same(engine: str, rounds: int, tmp_path: Path) -> None:
    name = write(tmp_path, engine=engine, rounds=rounds)
    path = killed_and_resumed(name, rounds, tmp_path)
    undisturbed = fedmeta("run", name, "--out", "undisturbed", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same(state(path), state(tmp_path / "undisturbed"))
    assert of_run(path) == of_run(tmp_path / "undisturbed")
    if engine == "ray":
        vector = fedmeta("run", name, "-s", "engine=vector", "--out", "vector", cwd=tmp_path)
        assert vector.returncode == 0, vector.stderr
        expected = state(tmp_path / "vector")
        for key, value in state(path).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)


@pytest.fixture
def nodes(tmp_path: Path) -> Callable[[], Any]:
    """Four SuperNodes that keep their memory in the same folder over restarts."""
    return lambda: run_local(Layout(tmp_path / "federation", 4, free_port()))


def on_nodes(folder: Path) -> dict[int, dict[tuple[int, int], bytes]]:
    """What each node's files hold, run by run."""
    found: dict[int, dict[tuple[int, int], bytes]] = {}
    for number, file in enumerate(sorted((folder / "federation" / "memory").glob("*.sqlite"))):
        found[number] = memories(file)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_remember_on_their_disks_though_they_and_the_server_are_killed(
    nodes: Callable[[], Any], tmp_path: Path
) -> None:
    with nodes() as federation:
        name = write(tmp_path, rounds=6, **on(federation))
        path = tmp_path / "killed"
        process = start("run", name, "--out", str(path), cwd=tmp_path)
        wait_until(lambda: rounds_of(path) >= 4, seconds=500)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert RunFolder.open(path).checkpoints.rounds()[0] == 3
    with nodes() as federation:
        address = f"deployment.address={federation.options.address}"
        resumed = fedmeta("resume", str(path), "-s", address, cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert "started afresh" not in resumed.stderr
    vector = fedmeta("run", name, "-s", "engine=vector", "--out", "vector", cwd=tmp_path)
    assert vector.returncode == 0, vector.stderr
    expected = state(tmp_path / "vector")
    for key, value in state(path).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    held = {key: value for file in on_nodes(tmp_path).values() for key, value in file.items()}
    for client, round_ in counted(path).items():
        mine = torch.frombuffer(bytearray(held[client, round_]), dtype=torch.float32)
        theirs = of_run(tmp_path / "vector")[client]
        other = torch.frombuffer(bytearray(theirs), dtype=torch.float32)
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    # The server's own file says whose updates counted, and holds nobody's memory.
    assert memories(path / "checkpoints" / "clients.sqlite") == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_lost_its_disk_starts_afresh_and_the_run_names_it(
    nodes: Callable[[], Any], tmp_path: Path
) -> None:
    with nodes() as federation:
        name = write(tmp_path, rounds=3, **on(federation))
        path = tmp_path / "run"
        assert fedmeta("run", name, "--out", str(path), cwd=tmp_path).returncode == 0
        for file in (tmp_path / "federation" / "memory").glob("*.sqlite"):
            file.unlink()
        resumed = fedmeta("resume", str(path), "-s", "rounds=5", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "lost its memory, and started afresh" in resumed.stderr


def test_a_file_that_does_not_fit_its_checkpoint_is_not_used(tmp_path: Path) -> None:
    name = write(tmp_path, rounds=7)
    done = fedmeta("run", name, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "run" / "checkpoints" / "clients.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("DELETE FROM states WHERE round = 7")
        db.commit()
    resumed = fedmeta("resume", "run", "-s", "rounds=9", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    line = "round 7: clients.sqlite does not have the clients' memory of that round: not used"
    assert line in " ".join(resumed.stderr.split())
    write(tmp_path, rounds=9)
    again = fedmeta("run", name, "--out", "whole", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert_same(state(tmp_path / "run"), state(tmp_path / "whole"))
    assert of_run(tmp_path / "run") == of_run(tmp_path / "whole")


def opened(path: Path, **changes: Any) -> list[tuple[int, int, Message]]:
    """Run, and return each training reply with its client and round."""
    found: list[tuple[int, int, Message]] = []
    check = AdmissionGate.check

    def looked_at(gate: AdmissionGate, client: int, round_: int, replies: Sequence[Message]) -> Any:
        found.extend((client, round_, reply) for reply in replies)
        return check(gate, client, round_, replies)

    with patch.object(AdmissionGate, "check", looked_at):
        run(Config(**MEMORY | {"rounds": 5} | changes), out=path)
    return found


def require_nothing_private(
    replies: Sequence[tuple[int, int, Message]], held: dict[tuple[int, int], bytes]
) -> None:
    """A control variate after a client's first round is a sum of what it sent, and in no message."""
    assert len(replies) == 10
    secrets = 0
    for client, round_, reply in replies:
        assert set(reply.content) == {"arrays", "metrics", "config"}
        assert set(reply.content.array_records["arrays"]) == set(shared_keys())
        assert set(reply.content.config_records["config"]) == {"round"}
        sent = b"".join(flat(reply.content))
        earlier = [r for c, r, _ in replies if c == client and r < round_]
        if earlier and (client, round_) in held:
            secrets += 1
            assert any(held[client, round_][-40:])
            assert held[client, round_][-40:] not in sent
    assert secrets


def shared_keys() -> list[str]:
    weights = ["head.bias", "head.weight", "hidden0.bias", "hidden0.weight"]
    return [*weights, *(CONTROL + key for key in weights)]


def require_a_run_keeps_its_secrets(path: Path, engine: str) -> None:
    replies = opened(path, engine=engine)
    require_nothing_private(replies, memories(path / "checkpoints" / "clients.sqlite"))


def test_no_reply_holds_what_a_client_remembers(tmp_path: Path) -> None:
    require_a_run_keeps_its_secrets(tmp_path / "run", "vector")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_reply_of_ray_holds_what_a_client_remembers(tmp_path: Path) -> None:
    # Ray leaves its first process to the end of the process that started it.
    child = f"from {__name__} import *; require_a_run_keeps_its_secrets(Path('run'), 'ray')"
    command = [sys.executable, "-c", child]
    paths = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_reply_of_a_node_holds_what_it_remembers(nodes: Callable[[], Any], tmp_path: Path) -> None:
    with nodes() as federation:
        replies = opened(tmp_path / "run", **on(federation))
    held = {key: value for file in on_nodes(tmp_path).values() for key, value in file.items()}
    require_nothing_private(replies, held)
