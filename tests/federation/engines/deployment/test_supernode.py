"""A SuperNode runs what its owner installed, not what a SuperLink sends."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedmeta.federation.engines.deployment.supernode import SuperNode, pinned
from tests import processes

PROGRAMS = ("flwr-clientapp", "flwr-agentapp", "flwr-serverapp", "flwr-model", "flwr-connector")


def test_its_owners_settings_are_the_programs_arguments(tmp_path: Path) -> None:
    node = SuperNode(
        superlink="link.example.org:8000",
        partition=3,
        port=9000,
        certificate="ca.crt",
        key=tmp_path / "node",
        account=tmp_path / "my account.json",
        data=tmp_path / "data",
        max_seconds=60.0,
        device="cuda",
    )
    command = node.command()
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--root-certificates"] == "ca.crt"
    assert given["--auth-supernode-private-key"] == str(tmp_path / "node")
    assert given["--node-config"] == (
        f'partition-id=3 account="{tmp_path}/my account.json" data="{tmp_path}/data" max-seconds=60.0 '
        'device="cuda"'
    )
    assert "--insecure" not in command


@pytest.mark.parametrize("allowed", [True, False])
def test_code_is_allowed_by_its_owner_alone(allowed: bool) -> None:
    config = SuperNode("127.0.0.1:1", 0, 2, allow_code=allowed).command()[-1]
    assert ("allow-code=true" in config) is allowed


def test_every_program_that_flower_starts_by_name_is_ours(tmp_path: Path) -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    first = Path(pinned(tmp_path)["PATH"].split(":")[0])
    assert {path.name for path in first.iterdir()} == set(TASK_TYPE_TO_COMMAND.values())
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in first.iterdir())


def test_an_app_for_another_program_is_not_run(tmp_path: Path) -> None:
    first = Path(pinned(tmp_path)["PATH"].split(":")[0])
    done = subprocess.run(
        [first / "flwr-agentapp", "--token", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "this node answers messages and runs no other app\n"


def test_the_app_that_a_superlink_sent_is_neither_unpacked_nor_loaded(tmp_path: Path) -> None:
    """In a process of its own, as it changes Flower's: what it would unpack and load is ours."""
    code = """
import sys
from flwr.supernode import cli
from flwr.supernode.runtime import run_clientapp as flowers

def instead():
    sent = b"an archive of a stranger's"
    assert flowers.install_from_fab(sent, skip_prompt=True) is None
    load = flowers.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    from fedmeta.app import client_app
    assert load("evil/app", "1.0.0", "hash") is client_app
    print("ours")

cli.flwr_clientapp = instead
from fedmeta.cli.client_process import answer
answer()
"""
    done = processes.run([sys.executable, "-c", code], cwd=tmp_path)
    assert done.stdout == "ours\n", done.stderr
    assert list(tmp_path.iterdir()) == []
