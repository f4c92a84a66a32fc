"""A node's process, and the identity of the chain in its folder."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmeta.errors import RunError, UsageError
from fedmeta.files import open_own, read_file, read_json, write_atomically

_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01

# Waits until the pipe to us is closed, which happens however we end, then stops the node. Linux's
# parent-death signal would be sent when the thread that started the node ends.
_WATCHDOG = 'read _; kill -TERM "$1"'


class NodeProcess:
    """A node's process; its folder must be locked.

    Args:
        command: Command line of the node.
        folder: Holds its state, its errors (``node.log``) and its process id (``node.json``).

    Raises:
        RunError: If it cannot be started.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self._note = folder / "node.json"
        self._log = folder / "node.log"
        try:
            with open(open_own(self._log, os.O_WRONLY | os.O_TRUNC), "wb") as log:
                # In its own session, so Ctrl-C reaches only us and we stop it cleanly.
                self._process = subprocess.Popen(
                    command,
                    # Anvil loads an .env file from its current folder.
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    # Its output is a banner with private keys and a line per request.
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise RunError(f"{command[0]} cannot be started: {error.strerror}") from None
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        write_atomically(self._note, json.dumps({"pid": self.pid, "folder": str(folder)}).encode())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until it ends, and return its exit status."""
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last line of its log with text, preferring errors."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line.strip() for line in lines if any(letter.isalnum() for letter in line)]
        errors = [line for line in told if "error" in line.lower()]
        return (errors or told or ["no output"])[-1][:200]

    def stop(self) -> None:
        """Stop it so that it saves its state; may be called twice."""
        if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
            # First, so the watchdog cannot signal a reused process id.
            self._watchdog.kill()
            self._watchdog.wait()
            self._watchdog.stdin.close()
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._note.unlink(missing_ok=True)


def stop_orphan(folder: Path) -> None:
    """Stop a node that an earlier process left running in `folder`, and wait until its state is saved.

    The folder must be locked. Usually its watchdog is already stopping the node.

    Raises:
        RunError: If it cannot be stopped.
    """
    note = folder / "node.json"
    try:
        content = read_json(note)
        pid = int(content["pid"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        # Truncated by a crash: the watchdog stops that node.
        note.unlink(missing_ok=True)
        return
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not _is_node(pid, folder):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        end = time.monotonic() + _STOP_SECONDS
        while _is_node(pid, folder) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
    else:
        raise RunError(f"a node of an earlier run (pid {pid}) still uses {folder}: stop it")
    note.unlink(missing_ok=True)


def _is_node(pid: int, folder: Path) -> bool:
    """Return whether a process is the node of `folder`: its command line names the folder."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
        command = listed.stdout
    except OSError:
        return False
    return str(folder) in command


NodeKind = Literal["anvil", "ganache"]

ANVIL_STATE = "anvil.json"
_IDENTITY = "chain.json"
_LEAST_GAS = 60_000_000
_MOST_STATE = 1 << 30


@dataclass(frozen=True)
class Identity:
    """Identity of a chain; written once, when its folder is created.

    Attributes:
        kind: anvil or ganache.
        chain_id: Its chain id.
        accounts: Number of funded accounts.
        gas_limit: Of a block. Partly random: nothing else in the genesis block distinguishes two chains
            started within one second.
        timestamp: Of Anvil's genesis block. It makes a chain lost before Anvil's first save restart as
            the same chain, from its genesis.
    """

    kind: NodeKind
    chain_id: int
    accounts: int
    gas_limit: int
    timestamp: int


def identify(folder: Path, kind: NodeKind, chain_id: int, accounts: int) -> Identity:
    """Return the identity of the chain in `folder`; if it has none, store a new one.

    Raises:
        UsageError: If it has another kind or chain id.
    """
    path = folder / _IDENTITY
    if not path.exists():
        gas_limit = _LEAST_GAS + secrets.randbelow(2**24)
        new = Identity(kind, chain_id, accounts, gas_limit, int(time.time()))
        write_atomically(path, json.dumps(vars(new)).encode())
        return new
    try:
        found = Identity(**read_json(path))
    except (OSError, ValueError, TypeError):
        raise UsageError(f"{path} is damaged: remove {folder} to start a new chain") from None
    if (found.kind, found.chain_id) != (kind, chain_id):
        raise UsageError(
            f"{folder} holds a chain of {found.kind} with chain id {found.chain_id}, "
            f"not of {kind} with {chain_id}"
        )
    return found


def mend(state: Path) -> None:
    """Restore the last good copy of Anvil's state if Anvil was killed while writing it.

    The chain then lacks the blocks after that copy, as after a reorganisation.
    """
    copy = state.with_suffix(".copy")
    try:
        json.loads(read_file(state, _MOST_STATE))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        if not copy.exists():
            raise UsageError(f"{state} is damaged: remove {state.parent} to start a new chain") from None
        shutil.copyfile(copy, state)
    else:
        unfinished = state.with_suffix(".part")
        shutil.copyfile(state, unfinished)
        unfinished.replace(copy)
