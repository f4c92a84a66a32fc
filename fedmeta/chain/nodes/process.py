"""Starts and ends a node's process."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from fedmeta.errors import RunError
from fedmeta.files import open_own, read_json, write_atomically

_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01

# Waits until the pipe to us is closed, which happens however we end, and stops the node then. Linux's
# "signal on the parent's death" would come when the thread that started the node ends.
_WATCHDOG = 'read _; kill -TERM "$1"'


class NodeProcess:
    """A node that was started with its folder locked.

    Args:
        command: What to run.
        folder: Where it keeps its state, its errors (``node.log``) and its process id (``node.json``).

    Raises:
        RunError: If it cannot be started.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._note = folder / "node.json"
        self._log = folder / "node.log"
        try:
            with open(open_own(self._log, os.O_WRONLY | os.O_TRUNC), "wb") as log:
                # In a session of its own, so that a Ctrl-C reaches us alone and we stop it in order.
                self._process = subprocess.Popen(
                    command,
                    # Anvil sets the variables of an .env file that lies in its current folder.
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    # Banners with private keys, and a line for each request.
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
        """Whether it still runs."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until it ends, and return its exit status."""
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last line of its output that says anything."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line.strip() for line in lines if any(letter.isalnum() for letter in line)]
        errors = [line for line in told if "error" in line.lower()]
        return (errors or told or ["it says nothing"])[-1][:200]

    def stop(self) -> None:
        """Stop it so that it saves its state; twice is fine."""
        if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
            # First: the process id must not be another's when the watchdog uses it.
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
    """Stop a node that an earlier process left in `folder`, and wait until it has saved its state.

    The folder must be locked. Usually the node is being stopped already, by its watchdog.

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
        # Cut off while it was written: the node that it would have named has its watchdog.
        note.unlink(missing_ok=True)
        return
    for sent, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        if not _is_node(pid, folder):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        end = time.monotonic() + patience
        while _is_node(pid, folder) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
    else:
        raise RunError(f"a node of an earlier run (pid {pid}) still uses {folder}: stop it")
    note.unlink(missing_ok=True)


def _is_node(pid: int, folder: Path) -> bool:
    """Tell whether a process is the node of `folder`: its command names the folder."""
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


NODE_MODULES = "FEDMETA_NODE_MODULES"
"""Environment variable: a node_modules folder to look in first."""

_CHECKOUT = Path(__file__).parents[3] / "contracts" / "node_modules"


def program_folders() -> list[Path]:
    """Return the folders of npm packages in which a node's program may be."""
    named = os.environ.get(NODE_MODULES)
    return [*([Path(named)] if named else []), _CHECKOUT]
