"""A node's program and process; does not import web3."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fedmeta.errors import RunError, UsageError
from fedmeta.files import open_own

NODE_MODULES = "FEDMETA_NODE_MODULES"
"""Environment variable: a node_modules folder to search first."""

_CHECKOUT = Path(__file__).parents[2] / "contracts" / "node_modules"
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def find_anvil() -> list[str]:
    """Return the command that starts Anvil: the native binary, so that signals reach it."""
    machine = _ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    native = f"@foundry-rs/anvil-{sys.platform}-{machine}/bin/anvil"
    for folder in program_folders():
        if (folder / native).is_file():
            return [str(folder / native)]
    found = shutil.which("anvil")
    if found and not _is_script(Path(found)):
        return [found]
    if found:
        # npm's launcher script: the binary is in a sibling package.
        for parent in Path(found).resolve().parents:
            if parent.name == "node_modules" and (parent / native).is_file():
                return [str(parent / native)]
    raise UsageError("there is no Anvil: run `make nodes` in a checkout, or install Foundry")


def find_ganache() -> list[str]:
    """Return the command that starts Ganache, with Node.js."""
    scripts = [folder / "ganache" / "dist" / "node" / "cli.js" for folder in program_folders()]
    installed = shutil.which("ganache")
    scripts += [Path(installed).resolve()] if installed else []
    script = next((script for script in scripts if script.is_file()), None)
    if script is None:
        raise UsageError(
            "there is no Ganache: run `make nodes` in a checkout, or `npm install -g ganache@7.9.2`"
        )
    # An inactive virtual environment may have Node.js next to its Python.
    beside = Path(sys.executable).parent / "node"
    node = shutil.which("node") or (str(beside) if beside.is_file() else None)
    if node is None:
        raise UsageError("Ganache needs Node.js, and there is none: install it, or run `make nodes`")
    return [node, str(script)]


def program_folders() -> list[Path]:
    """Return the npm package folders to search for a node's program."""
    named = os.environ.get(NODE_MODULES)
    return [*([Path(named)] if named else []), _CHECKOUT]


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01

_NOTE = "node.json"
# Writes its process id, which the node then has.
_START = 'echo "{\\"pid\\": $$}"; exec "$@" >/dev/null'
# Waits until the pipe to us is closed, which happens however we end, then stops the node. Linux's
# parent-death signal would be sent when the thread that started the node ends.
_WATCHDOG = 'read _; kill -TERM "$1"'


class NodeProcess:
    """A node's process; its errors and its process id are in its folder, which must be locked.

    It inherits the lock on the file with its id, which lasts as long as the node; see `stop_orphan`.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._note = folder / _NOTE
        self._log = folder / "node.log"
        try:
            with (
                open(open_own(self._log, os.O_WRONLY | os.O_TRUNC), "wb") as log,
                open(open_own(self._note, os.O_WRONLY | os.O_TRUNC), "wb") as note,
            ):
                fcntl.flock(note, fcntl.LOCK_EX)
                # In its own session, so Ctrl-C reaches only us and we stop it cleanly.
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _START, "sh", *command],
                    # Anvil loads an .env file from its current folder.
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    # Of the shell; the node's is a banner with private keys and a line per request.
                    stdout=note,
                    stderr=log,
                    pass_fds=[note.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            what = error.filename or command[0]
            raise RunError(f"{what}: {error.strerror}, so {command[0]} cannot be started") from None
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until it ends, and return its exit status."""
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last line of its log with text; one with an error, if there is any."""
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

    The folder must be locked, and on a local disk: over NFS a lock does not outlive the process that
    took it. Usually its watchdog is already stopping the node. If no node holds the
    lock of the file, the id in it may be another process's by now.
    """
    told, end = set[signal.Signals](), time.monotonic() + 2 * _STOP_SECONDS
    try:
        file = os.fdopen(open_own(folder / _NOTE, os.O_RDWR), "rb")
    except OSError as error:
        raise RunError(f"{folder / _NOTE}: {error.strerror}") from None
    with file:
        while not _lock(file):
            left = end - time.monotonic()
            if left < 0:
                raise RunError(f"a node of an earlier run still uses {folder}: stop it")
            sent = signal.SIGTERM if left > _STOP_SECONDS else signal.SIGKILL
            file.seek(0)
            # The id follows the lock in a moment.
            if sent not in told and (pid := _pid_in(file.read())):
                told.add(sent)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
            time.sleep(_POLL_SECONDS)


def _pid_in(note: bytes) -> int | None:
    """Return the process id in a note; None if it is not whole, as on a full disk."""
    try:
        return int(json.loads(note)["pid"])
    except (ValueError, KeyError, TypeError):
        return None


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
