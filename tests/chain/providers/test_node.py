"""Starting a node: its output, its requirements, and refusals."""

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from fedmeta.chain import node_process as binaries
from fedmeta.chain.chain import open_chain, require_rules
from fedmeta.chain.locks import FileLock
from fedmeta.chain.node import NodeKind, banner, start_node
from fedmeta.chain.node_process import NodeProcess
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.providers.anvil import Anvil
from fedmeta.chain.providers.ganache import Ganache
from fedmeta.errors import UsageError
from tests.chain.providers.helpers import SPONSOR, options

KINDS: list[NodeKind] = ["anvil", "ganache"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_refuses_a_port_in_use_and_listens_where_it_says_with_the_accounts_that_everybody_knows(
    kind: NodeKind, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use"):
            start_node(kind, tmp_path, port)
    # Nothing is left behind: the folder can be used.
    with start_node(kind, tmp_path, chain_id=1337, accounts=3) as node:
        with open_chain(ChainOptions(provider=node.url, chain_id=1337), tmp_path) as chain:
            accounts = chain.request("eth_accounts")
        assert [account.lower() for account in accounts] == [a.lower() for a, _ in node.accounts]
        shown = banner(node)
    assert node.accounts[0] == (
        SPONSOR.address,
        # The first line of Anvil's own banner.
        "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    )
    for account, key in node.accounts:
        assert account in shown
        assert key in shown
    assert f"Listening on {node.url}" in shown
    assert "1337" in shown
    assert "THESE KEYS ARE PUBLIC" in shown
    assert "test test test" in shown


def test_a_chosen_port_is_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    chosen = options("anvil").model_copy(update={"port": port})
    with open_chain(chosen, tmp_path) as chain:
        assert chain.name == f"anvil at http://127.0.0.1:{port}"


class TestBinaries:
    @pytest.fixture
    def empty(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(binaries, "_CHECKOUT", tmp_path / "nothing")
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.delenv(binaries.NODE_MODULES, raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def program(self, path: Path, content: bytes = b"\x7fELF") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def native(self, folder: Path) -> Path:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        return folder / f"node_modules/@foundry-rs/anvil-linux-{machine}/bin/anvil"

    @pytest.mark.parametrize(
        ("kind", "message"),
        [("anvil", "there is no Anvil: run `make nodes`"), ("ganache", "there is no Ganache: run")],
    )
    def test_without_the_program_one_line_says_how_to_get_it(
        self, empty: Path, kind: NodeKind, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            start_node(kind, empty / "state")
        assert caught.value.exit_code == 2
        assert not (empty / "state").exists()

    def test_without_node_js_ganache_says_so(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program(empty / "modules" / "ganache" / "dist" / "node" / "cli.js")
        monkeypatch.setenv(binaries.NODE_MODULES, str(empty / "modules"))
        with pytest.raises(UsageError, match=r"Ganache needs Node\.js, and there is none"):
            Ganache.find()

    def test_node_js_beside_python_is_found(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = self.program(empty / "modules" / "ganache" / "dist" / "node" / "cli.js")
        monkeypatch.setenv(binaries.NODE_MODULES, str(empty / "modules"))
        monkeypatch.setenv("PATH", str(empty / "elsewhere"))
        node = self.program(empty / "node")
        assert Ganache.find() == [str(node), str(script)]

    def test_a_native_anvil_on_path_is_found(self, empty: Path) -> None:
        assert binaries_of(self.program(empty / "anvil")) == Anvil.find()

    def test_npms_launcher_is_bypassed(self, empty: Path) -> None:
        launcher = self.program(empty / "node_modules/@foundry-rs/anvil/bin.mjs", b"#!/usr/bin/env node")
        (empty / "anvil").symlink_to(launcher)
        with pytest.raises(UsageError, match="there is no Anvil"):
            Anvil.find()
        native = self.program(self.native(empty))
        assert Anvil.find() == [str(native)]


def binaries_of(path: Path) -> list[str]:
    return [str(path)]


@pytest.mark.parametrize("kind", ["anvil", "ganache"])
@pytest.mark.parametrize("rules", ["london", pytest.param("berlin", marks=pytest.mark.slow)])
def test_a_hard_fork_before_shanghai_is_refused_in_one_line(
    kind: NodeKind, rules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.chain.node.HARDFORK", rules)
    with (
        start_node(kind, tmp_path) as node,
        open_chain(ChainOptions(provider=node.url), tmp_path) as chain,
        pytest.raises(UsageError, match=f"{node.url} has rules from before Shanghai, .*--hardfork"),
    ):
        require_rules(chain)


@pytest.mark.parametrize("name", [".env", ".npmrc", "foundry.toml"])
def test_a_node_reads_no_settings_of_its_folder(name: str, tmp_path: Path) -> None:
    # Anvil sets all variables of an .env where it starts; a folder may be a stranger's.
    (tmp_path / name).write_text("ANVIL_IP_ADDR=0.0.0.0\n")
    process = NodeProcess(["/bin/sh", "-c", f"cat ./{name} ../{name} >&2; true"], tmp_path)
    assert process.wait() == 0
    process.stop()
    assert "0.0.0.0" not in (tmp_path / "node.log").read_text()


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_only_the_user_can_read_a_chains_folder_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        FileLock(tmp_path / "chain" / "lock", "the chain").release()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "chain").stat().st_mode) == 0o700
