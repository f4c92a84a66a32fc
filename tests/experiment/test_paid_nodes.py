"""Paid nodes of a federation: their identity, signatures, and final balances."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedmeta.chain import recover, start_node, update_digest
from fedmeta.chain.audit import audit
from fedmeta.chain.settle.status import status
from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder
from fedmeta.experiment.node_keys import NodeFiles, join
from fedmeta.experiment.roster import LOCAL, LocalNodes, Roster
from fedmeta.federation.engines.deployment.local import Layout, LocalFederation, end, run_local
from fedmeta.federation.engines.deployment.superlink import CONNECTION, flwr
from fedmeta.federation.engines.deployment.supernode import SuperNode, free_port, pinned
from fedmeta.federation.engines.deployment.tls import NodeKey
from tests.experiment.deployed import DIGITS, on, rounds_of, wait_until
from tests.experiment.helpers import fedmeta, start

POT = 90
UNITS = 10**6
PATIENCE = 900.0
"""Six nodes load PyTorch for each of their messages."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("federation")


@pytest.fixture(scope="module")
def federation(folder: Path) -> Iterator[LocalFederation]:
    """Four SuperNodes with keys and accounts of their own, over TLS."""
    layout = Layout(folder, 4, free_port(), secure=True, enrol=LocalNodes(folder))
    with run_local(layout) as running:
        yield running


@pytest.fixture
def anvil(tmp_path: Path) -> Iterator[str]:
    node = start_node("anvil", tmp_path / "anvil", free_port())
    try:
        yield node.url
    finally:
        node.close()


@contextmanager
def supernode(
    federation: LocalFederation, folder: Path, partition: int, key: NodeKey, account: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Another SuperNode, as `fedmeta federation node` starts it."""
    node = SuperNode(
        superlink=federation.options.address,
        partition=partition,
        port=free_port(),
        certificate=federation.options.certificate,
        key=key.private,
        account=account,
    )
    folder.mkdir(exist_ok=True)
    with (folder / f"{key.private.name}.log").open("wb") as log:
        environment = {**pinned(folder), "FLWR_HOME": str(folder)}
        process = subprocess.Popen(
            node.command(),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def registered(federation: LocalFederation, key: NodeKey) -> int:
    answer = flwr(federation.home, "supernode", "register", str(key.public), CONNECTION)
    return int(answer["node-id"])


def paid_config(federation: LocalFederation, url: str, **more: Any) -> Config:
    chain = {"provider": url, "pot": POT}
    return Config(**DIGITS | {"rounds": 4, "timeout": 300.0} | on(federation) | {"chain": chain} | more)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_authenticated_nodes_sign_and_are_paid_exactly_whatever_is_killed(
    federation: LocalFederation, folder: Path, anvil: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    (tmp_path / "paid.toml").write_text(to_toml(paid_config(federation, anvil)))
    keys = [NodeFiles(folder / "keys", f"node-{number}") for number in range(4)]
    thief, liar = NodeFiles(tmp_path / "others", "thief"), NodeFiles(tmp_path / "others", "liar")
    for one in (thief, liar):
        join(one, LOCAL, 0)
    ids = [registered(federation, one.key) for one in (thief, liar)]
    with ExitStack() as stack:
        # One has somebody's account but not its key; the other claims a partition in its own name.
        stack.enter_context(supernode(federation, tmp_path / "o", 2, thief.key, keys[2].account))
        stack.enter_context(supernode(federation, tmp_path / "o", 0, liar.key, liar.account))

        process = start("run", "paid.toml", "--out", str(path), cwd=tmp_path)
        stack.callback(process.kill)
        wait_until(lambda: rounds_of(path) >= 1, PATIENCE)
        os.killpg(federation.nodes[1].pid, signal.SIGKILL)
        wait_until(lambda: rounds_of(path) >= 2, PATIENCE)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        again = supernode(federation, tmp_path / "again", 1, keys[1].key, keys[1].account)
        stack.enter_context(again)
        resumed = fedmeta("resume", str(path), "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    told = json.loads(resumed.stdout)
    assert told["chain"]["complete"], told["chain"]

    run = RunFolder.open(path)
    accounts = {
        seat.registration.partition: seat.registration.account
        for seat in Roster.read(folder / "roster.json")
    }
    admitted = [row for row in run.clients() if row["admitted"]]
    signed_under = bytes.fromhex(run.info["run_id"])
    for row in admitted:
        digest = update_digest(signed_under, row["round"], row["tasks"], bytes.fromhex(row["update"]))
        assert recover(digest, bytes.fromhex(row["signature"])) == accounts[row["client"]]
    assert [row["round"] for row in run.metrics()] == [1, 2, 3, 4]

    earned = dict.fromkeys((row["client"] for row in admitted), 0)
    for row in admitted:
        earned[row["client"]] += row["reward"]
    found = status(path / "chain", run.config.chain)
    assert {one.client: one.claimed for one in found.participants} == earned
    assert sum(earned.values()) == 4 * POT * UNITS
    findings = audit(path, run.config.chain)
    assert [one.detail for one in findings if not one.ok] == []

    refused = sorted(told["replies"]["refused_nodes"])
    assert refused == sorted(
        [
            f"node {ids[0]}: it claims partition 2, to which the key of node "
            f"{seat_of(folder, 2)} is admitted",
            f"node {ids[1]}: it claims partition 0, to which the key of node "
            f"{seat_of(folder, 0)} is admitted",
        ]
    )


def seat_of(folder: Path, partition: int) -> int | None:
    seat = Roster.read(folder / "roster.json").seat(partition)
    assert seat is not None
    return seat.node
