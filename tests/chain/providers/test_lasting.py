"""Chain state survives: a chain that was closed, killed or left behind reopens unchanged."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmeta.chain import node_process
from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import ChainDownError
from fedmeta.chain.node_process import stop_orphan
from fedmeta.errors import RunError, UsageError
from tests import processes
from tests.chain.providers.helpers import (
    NOBODY,
    SPONSOR,
    balance,
    latest,
    next_nonce,
    options,
    send,
    sign,
)

ROOT = Path(__file__).parents[3]
SENT = 4
QUICK = ["embedded", "anvil", pytest.param("ganache", marks=pytest.mark.slow)]
"""Ganache takes seconds to start: one test below says of it what these say of the others."""


def node_pid(folder: Path) -> int:
    return int(json.loads((folder / "node.json").read_text(encoding="utf-8"))["pid"])


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_ended(pid: int) -> bool:
    end = time.monotonic() + 15
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(pid)


@contextlib.contextmanager
def holder(provider: str, folder: Path, transactions: int = SENT) -> "Iterator[tuple[Any, Any]]":
    """Run a process that holds a chain; yield it and its description of the chain."""
    command = [sys.executable, "-m", "tests.chain.providers.holder", provider, str(folder)]
    process = processes.Popen([*command, str(transactions)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("provider", QUICK)
def test_a_closed_chain_is_opened_as_it_was(provider: str, tmp_path: Path) -> None:
    with open_chain(options(provider), tmp_path) as chain:
        genesis = chain.genesis
        for nonce in range(SENT):
            send(chain, sign(nonce, to=NOBODY, value=1))
        head = latest(chain)
    with open_chain(options(provider), tmp_path) as chain:
        assert chain.genesis == genesis
        assert latest(chain)["hash"] == head["hash"]
        assert balance(chain, NOBODY) == SENT
        # And it goes on from there.
        send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
        assert balance(chain, NOBODY) == SENT + 1
        assert next_nonce(chain, SPONSOR) == SENT + 1


@pytest.mark.parametrize("provider", QUICK)
@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_a_chain_is_the_same_however_often_it_is_opened(
    ended: str, provider: str, tmp_path: Path
) -> None:
    seen = []
    for _ in range(3):
        if ended == "killed":
            with holder(provider, tmp_path, transactions=0):
                pass
        with open_chain(options(provider), tmp_path) as chain:
            seen.append(chain.genesis)
            send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
            assert abs(int(latest(chain)["timestamp"], 16) - time.time()) < 60
    assert seen == seen[:1] * 3


@pytest.mark.parametrize("provider", QUICK)
def test_another_folder_is_another_chain(provider: str, tmp_path: Path) -> None:
    with (
        open_chain(options(provider), tmp_path / "a") as first,
        open_chain(options(provider), tmp_path / "b") as second,
    ):
        assert first.chain_id == second.chain_id
        assert first.genesis != second.genesis


@pytest.mark.parametrize("provider", QUICK)
def test_a_chain_whose_owner_is_killed_keeps_every_transaction(provider: str, tmp_path: Path) -> None:
    with holder(provider, tmp_path) as (process, said):
        process.kill()
        process.wait()
    with open_chain(options(provider), tmp_path) as chain:
        assert chain.genesis.hex() == said["genesis"]
        assert latest(chain)["hash"] == said["hash"]
        assert balance(chain, NOBODY) == SENT


@pytest.mark.parametrize("provider", QUICK)
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.37])
def test_a_kill_while_it_works_leaves_whole_blocks(provider: str, tmp_path: Path, delay: float) -> None:
    command = [sys.executable, "-m", "tests.chain.providers.holder", provider, str(tmp_path)]
    process = processes.Popen([*command, "100000"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        begun = {"embedded": "embedded.sqlite", "anvil": "node.json", "ganache": "node.json"}
        end = time.monotonic() + 20
        note = tmp_path / begun[provider]
        # The file is there before the node has written its id.
        while not (note.exists() and note.stat().st_size) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(delay)
    finally:
        process.kill()
        process.wait()
    with open_chain(options(provider), tmp_path) as chain:
        # Every block holds one transaction of one wei.
        mined = int(latest(chain)["number"], 16)
        assert (next_nonce(chain), balance(chain, NOBODY)) == (mined, mined)
        send(chain, sign(mined, to=NOBODY, value=1))
        assert int(latest(chain)["number"], 16) == mined + 1


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("anvil", signal.SIGKILL),
        ("anvil", signal.SIGTERM),
        ("anvil", signal.SIGINT),
        pytest.param("ganache", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("ganache", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("ganache", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_node_ends_with_its_owner(kind: str, sent: signal.Signals, tmp_path: Path) -> None:
    with holder(kind, tmp_path, 0) as (process, _):
        pid = node_pid(tmp_path)
        assert is_running(pid)
        process.send_signal(sent)
        process.wait()
    assert wait_until_ended(pid)


@pytest.mark.parametrize("kind", QUICK[1:])
def test_a_node_that_was_left_behind_is_stopped_and_its_state_kept(kind: str, tmp_path: Path) -> None:
    with holder(kind, tmp_path) as (process, said):
        pid = node_pid(tmp_path)
        # Its watchdog is killed first, as when a whole group is, so that nobody stops the node.
        for child in children(process.pid) - {pid}:
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
    assert is_running(pid)
    with open_chain(options(kind), tmp_path) as chain:
        assert not is_running(pid)
        assert node_pid(tmp_path) != pid
        assert latest(chain)["hash"] == said["hash"]


DYING = """
import os, signal, subprocess, sys
from fedmeta.chain import node_process, start_node

class Popen(subprocess.Popen):
    started = False

    def __init__(self, *arguments, **options):
        if Popen.started:
            os.kill(os.getpid(), signal.SIGKILL)
        Popen.started = True
        super().__init__(*arguments, **options)

node_process.subprocess.Popen = Popen
start_node(*sys.argv[1:])
"""
"""Starts a node, and dies before it has started the watchdog."""


@pytest.mark.parametrize("kind", QUICK[1:])
def test_a_node_whose_owner_dies_before_anybody_watches_it_is_stopped(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DYING, kind, str(tmp_path)]
    assert processes.Popen(command, cwd=ROOT).wait() == -signal.SIGKILL
    with open_chain(options(kind), tmp_path) as chain:
        genesis, pid = chain.genesis, node_pid(tmp_path)
        listed = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
        # The watchdog is told the pid, not the folder.
        assert listed.stdout.split() == [str(pid)]
    with open_chain(options(kind), tmp_path) as chain:
        assert chain.genesis == genesis


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return {int(child) for child in listed}


@pytest.mark.parametrize("kind", QUICK[1:])
def test_another_process_that_reuses_an_old_pid_is_left_alone(kind: str, tmp_path: Path) -> None:
    with open_chain(options(kind), tmp_path):
        pass
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        note = {"pid": stranger.pid, "folder": str(tmp_path)}
        (tmp_path / "node.json").write_text(json.dumps(note), encoding="utf-8")
        with open_chain(options(kind), tmp_path):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_note_that_was_cut_off_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text('{"pid": 1', encoding="utf-8")
    with open_chain(options("anvil"), tmp_path) as chain:
        assert chain.chain_id == 31337


def test_a_note_that_stays_cut_off_while_a_node_holds_it_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_process, "_STOP_SECONDS", 0.1)
    with (tmp_path / "node.json").open("w", encoding="utf-8") as note:
        note.write("{")
        note.flush()
        fcntl.flock(note, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"a node of an earlier run still uses .*: stop it"):
            stop_orphan(tmp_path)


def test_a_node_that_dies_counts_as_down_not_as_an_answer(tmp_path: Path) -> None:
    with open_chain(options("anvil"), tmp_path) as chain:
        os.kill(node_pid(tmp_path), signal.SIGKILL)
        assert wait_until_ended(node_pid(tmp_path))
        with pytest.raises(
            ChainDownError, match=r"no node answers at http://127\.0\.0\.1:\d+: .*connection"
        ):
            chain.request("eth_chainId")


@pytest.mark.parametrize("provider", QUICK)
def test_a_folder_is_used_once_at_a_time(provider: str, tmp_path: Path) -> None:
    with open_chain(options(provider), tmp_path) as chain:
        with pytest.raises(UsageError, match=f"the chain in {tmp_path} is already open"):
            open_chain(options(provider), tmp_path)
        # The refusal has taken nothing from the one that is open.
        assert latest(chain)["number"] == "0x0"
    with (
        holder(provider, tmp_path, 0) as (process, _),
        pytest.raises(UsageError, match=rf"open in another process \(pid {process.pid}\)"),
    ):
        open_chain(options(provider), tmp_path)


@pytest.mark.parametrize("provider", QUICK)
def test_closing_twice_is_fine(provider: str, tmp_path: Path) -> None:
    chain = open_chain(options(provider), tmp_path)
    chain.close()
    chain.close()
    open_chain(options(provider), tmp_path).close()


@pytest.mark.parametrize("provider", QUICK)
def test_another_chain_id_is_not_the_chain_in_the_folder(provider: str, tmp_path: Path) -> None:
    open_chain(options(provider), tmp_path).close()
    other = options(provider).model_copy(update={"chain_id": 1337})
    with pytest.raises(UsageError, match=r"chain id 31337, not .*1337"):
        open_chain(other, tmp_path)


def test_ganache_ends_with_its_owner_and_its_chain_lasts_in_a_folder_of_its_own(tmp_path: Path) -> None:
    ganache = options("ganache")
    with holder("ganache", tmp_path) as (process, said):
        pid = node_pid(tmp_path)
        with pytest.raises(UsageError, match=rf"open in another process \(pid {process.pid}\)"):
            open_chain(ganache, tmp_path)
        assert is_running(pid)
        process.kill()
        process.wait()
    assert wait_until_ended(pid)
    with open_chain(ganache, tmp_path) as chain:
        with pytest.raises(UsageError, match=f"the chain in {tmp_path} is already open"):
            open_chain(ganache, tmp_path)
        assert (chain.genesis.hex(), latest(chain)["hash"]) == (said["genesis"], said["hash"])
        assert balance(chain, NOBODY) == SENT
        send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
        head = latest(chain)
    with pytest.raises(UsageError, match="holds a chain of ganache with chain id 31337, not of anvil"):
        open_chain(options("anvil"), tmp_path)
    with open_chain(ganache, tmp_path) as chain:
        assert (chain.genesis.hex(), latest(chain)["hash"]) == (said["genesis"], head["hash"])
        assert balance(chain, NOBODY) == SENT + 1
        # And it goes on from there.
        send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
        assert balance(chain, NOBODY) == SENT + 2
        assert next_nonce(chain, SPONSOR) == SENT + 2


class TestDamage:
    def test_a_folder_without_an_embedded_chain_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "embedded.sqlite").write_bytes(b"not a database at all" * 100)
        with pytest.raises(UsageError, match=r"embedded\.sqlite is not an embedded chain"):
            open_chain(options("embedded"), tmp_path)

    def test_an_embedded_chain_of_the_future_is_refused(self, tmp_path: Path) -> None:
        import sqlite3

        open_chain(options("embedded"), tmp_path).close()
        database = sqlite3.connect(tmp_path / "embedded.sqlite")
        database.execute("PRAGMA user_version = 99")
        database.close()
        with pytest.raises(UsageError, match="another version of fedmeta"):
            open_chain(options("embedded"), tmp_path)

    def test_anvils_half_written_state_is_replaced_by_the_last_good_copy(self, tmp_path: Path) -> None:
        with open_chain(options("anvil"), tmp_path) as chain:
            genesis = chain.genesis
            send(chain, sign(0, to=NOBODY, value=1))
        # Opening it makes the copy.
        with open_chain(options("anvil"), tmp_path) as chain:
            send(chain, sign(1, to=NOBODY, value=1))
        state = tmp_path / "anvil.json"
        state.write_bytes(state.read_bytes()[:-100])
        with open_chain(options("anvil"), tmp_path) as chain:
            assert chain.genesis == genesis
            assert balance(chain, NOBODY) == 1

    def test_without_a_copy_it_is_refused_in_one_line(self, tmp_path: Path) -> None:
        open_chain(options("anvil"), tmp_path).close()
        (tmp_path / "anvil.json").write_bytes(b'{"block":')
        with pytest.raises(UsageError, match=r"anvil\.json is damaged: remove"):
            open_chain(options("anvil"), tmp_path)

    def test_a_state_that_was_never_saved_is_the_same_chain_from_its_start(self, tmp_path: Path) -> None:
        with open_chain(options("anvil"), tmp_path) as chain:
            genesis = chain.genesis
            send(chain, sign(0, to=NOBODY, value=1))
        (tmp_path / "anvil.json").unlink()
        with open_chain(options("anvil"), tmp_path) as chain:
            assert chain.genesis == genesis
            assert latest(chain)["number"] == "0x0"

    def test_a_damaged_identity_is_refused_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "chain.json").write_text("{}", encoding="utf-8")
        with pytest.raises(UsageError, match=r"chain\.json is damaged"):
            open_chain(options("anvil"), tmp_path)

    def test_a_folder_that_cannot_be_made_is_refused(self, provider: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(UsageError, match="cannot write to"):
            open_chain(options(provider), tmp_path / "file" / "folder")

    def test_a_state_of_something_else_is_a_node_that_does_not_start(self, tmp_path: Path) -> None:
        open_chain(options("anvil"), tmp_path).close()
        (tmp_path / "anvil.json").write_text("[1, 2]", encoding="utf-8")
        with pytest.raises(RunError, match=r"anvil does not start: .*node\.log"):
            open_chain(options("anvil"), tmp_path)
