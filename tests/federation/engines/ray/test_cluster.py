"""Runs on an existing Ray cluster, which keeps running afterwards."""

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from fedmeta.errors import UsageError
from fedmeta.federation.behaviours import mods_for
from fedmeta.federation.engines.ray import RayOptions, require_ray
from fedmeta.training import simulate
from tests.federation.engines.ray import child
from tests.federation.helpers import SINUSOID

HOME = Path(__file__).resolve().parents[4]
BYSTANDER = """
import sys, ray
ray.init(address=sys.argv[1], namespace="others", log_to_driver=False, logging_level="CRITICAL")
@ray.remote(num_cpus=0)
class Bystander:
    def alive(self):
        return "alive"
if sys.argv[2] == "start":
    actor = Bystander.options(name="bystander", lifetime="detached").remote()
else:
    actor = ray.get_actor("bystander")
print(ray.get(actor.alive.remote(), timeout=120))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one machine, on ports of its own."""
    port = free_port()
    with ExitStack() as stack:
        # Ray's sockets are in it: a path in pytest's folder would be too long for them.
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        )
        options = ["--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port)]
        options += ["--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", folder]
        options += ["--ray-client-server-port", str(free_port()), "--disable-usage-stats"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=os.environ | {"RAY_worker_register_timeout_seconds": "300"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(stop, process)
        deadline = time.monotonic() + 120
        while True:
            try:
                require_ray(RayOptions(address=f"127.0.0.1:{port}"))
                break
            except UsageError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield f"127.0.0.1:{port}"


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a cluster's processes, by their ids."""
    everybody = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(60)
    _, left = psutil.wait_procs(everybody, timeout=20)
    for one in left:
        one.kill()
    psutil.wait_procs(left, timeout=20)


def call(code: str, *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_cluster_learns_the_same_and_ends_no_other_actor(
    address: str, tmp_path: Path
) -> None:
    assert call(BYSTANDER, address, "start") == "alive"
    mods = mods_for(child.BEHAVIOURS, SINUSOID)
    expected = simulate(SINUSOID, child.PLAN, observer=lambda *_: None, mods=mods)
    for run in ("first", "second"):
        code = "from tests.federation.engines.ray.child import on_cluster; on_cluster()"
        assert call(code, address, str(tmp_path / run)) == ""
        seen: child.Seen = pickle.loads((tmp_path / run).read_bytes())
        for key, value in expected.state.items():
            assert (seen.end.state[key] - value).abs().max() <= 1e-5 * value.abs().max()
        assert call(BYSTANDER, address, "find") == "alive"


def test_an_address_without_a_server_is_reported_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        UsageError, match=rf"^ray.address: no Ray cluster at {address} \(Connection refused\)$"
    ):
        require_ray(RayOptions(address=address))


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:99999", "ray://host:x"])
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT, 'auto' or 'local'"):
        require_ray(RayOptions(address=address))
