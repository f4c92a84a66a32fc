"""A federation over several hosts, one of which is disconnected for a while."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.federation.engines.deployment import DeploymentOptions
from fedmeta.federation.engines.deployment.local import end
from fedmeta.federation.engines.deployment.superlink import CONNECTION, QUIET, program, write_connection
from fedmeta.federation.engines.deployment.tls import make_certificates, make_node_key
from tests.experiment.deployed import PAIR, rounds_of, wait_until

LINK = f"fm-link-{os.getpid()}"
NODES = [f"fm-node{n}-{os.getpid()}" for n in range(2)]
PORT = 8000


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def may_make_hosts() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", LINK], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", LINK], check=False, capture_output=True)
    return made.returncode == 0


@contextmanager
def hosts() -> Iterator[None]:
    """A host for the SuperLink and one for each SuperNode, each node on a cable of its own."""
    try:
        for name in (LINK, *NODES):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number, name in enumerate(NODES):
            cable = f"fm{os.getpid() % 100_000}-{number}"
            ip("-n", LINK, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", LINK, "addr", "add", f"10.77.{number}.1/30", "dev", cable)
            ip("-n", name, "addr", "add", f"10.77.{number}.2/30", "dev", "eth0")
            ip("-n", LINK, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        for name in (LINK, *NODES):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def process(
    host: str, log: Path, home: Path, command: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("wb") as file:
        started = subprocess.Popen(
            ["ip", "netns", "exec", host, *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **QUIET, "FLWR_HOME": str(home), "PATH": path},
            start_new_session=True,
        )
    try:
        yield started
    finally:
        end(started)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_host_that_is_cut_off_in_a_round_takes_part_again(tmp_path: Path) -> None:
    if not may_make_hosts():
        pytest.skip("network namespaces need root, and the program ip (Debian's iproute2)")
    config = Config(**PAIR | {"rounds": 6, "timeout": 45.0})
    run(config, out=tmp_path / "undisturbed")
    (tmp_path / "pair.toml").write_text(to_toml(config))
    made = make_certificates(tmp_path, ["127.0.0.1", "10.77.0.1", "10.77.1.1"])
    home, path = tmp_path / "home", tmp_path / "run"
    write_connection(
        home, DeploymentOptions(address=f"127.0.0.1:{PORT}", certificate=str(made.authority))
    )
    with hosts(), ExitStack() as stack:
        tls = ["--ssl-ca-certfile", str(made.authority), "--ssl-certfile", str(made.certificate)]
        tls += ["--ssl-keyfile", str(made.key), "--enable-supernode-auth"]
        superlink = [program("flower-superlink"), *tls, "--host", "0.0.0.0", "--port", str(PORT)]
        superlink.append("--disable-runtime-dependency-installation")
        stack.enter_context(process(LINK, tmp_path / "superlink.log", home, superlink))
        for number, host in enumerate(NODES):
            key = make_node_key(tmp_path / "keys", host)
            register = ["supernode", "register", str(key.public), CONNECTION]
            wait_until(lambda register=register: registered(home, register))  # type: ignore[misc]
            node = [program("flower-supernode"), "--root-certificates", str(made.authority)]
            node += ["--auth-supernode-private-key", str(key.private)]
            node += ["--superlink", f"10.77.{number}.1:{PORT}", "--host", "127.0.0.1"]
            node += ["--node-config", f"partition-id={number} num-partitions=2"]
            stack.enter_context(process(host, tmp_path / f"node-{number}.log", home, node))
        settings = [f"deployment.address=127.0.0.1:{PORT}", f"deployment.certificate={made.authority}"]
        command = [
            sys.executable,
            "-m",
            "fedmeta",
            "run",
            str(tmp_path / "pair.toml"),
            "--out",
            str(path),
        ]
        for setting in ("engine=deployment", *settings):
            command += ["-s", setting]
        server = stack.enter_context(process(LINK, tmp_path / "run.log", home, command))

        wait_until(lambda: rounds_of(path) >= 1)
        ip("-n", NODES[1], "link", "set", "eth0", "down")
        wait_until(lambda: any(row["lost"] for row in RunFolder.open(path).metrics()))
        ip("-n", NODES[1], "link", "set", "eth0", "up")
        assert server.wait(500) == 0, (tmp_path / "run.log").read_text()

    rows = RunFolder.open(path).metrics()
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5, 6]
    admitted = [row["admitted"] for row in rows]
    assert admitted[0] == 2
    assert 1 in admitted, "the rounds in which it was away ended with the other"
    assert admitted[-1] == 2, "it is back before the end"
    assert all(row["admitted"] + row["lost"] == 2 for row in rows)


def registered(home: Path, register: Sequence[str]) -> bool:
    """Register a node's key; false as long as the SuperLink is not up."""
    inside = ["ip", "netns", "exec", LINK, program("flwr"), *register, "--format", "json"]
    done = subprocess.run(
        inside,
        env={**os.environ, **QUIET, "FLWR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    time.sleep(0.5)
    return '"success": true' in done.stdout
