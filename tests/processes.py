"""Processes of Python modules at the price of a fork: a server that has imported fedmeta forks each.

A process so made has its own id, files, folder and environment like any other, and can be killed. It
begins with `import fedmeta` done, which takes longer than most tests.
"""

import atexit
import gc
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = dict(os.environ)
"""As it was before any test changed it."""
AT_START = ("PYTHON", "OMP_", "MKL_", "LC_", "LANG", "LD_")
"""Variables that a process reads once, as it starts."""
AHEAD = ("sklearn.datasets", "torch._dynamo")
"""What fedmeta and torch import only once they need it."""
NOT_AHEAD = ("fedmeta.__main__", "fedmeta.app", "fedmeta.bench", "fedmeta.federation.ray")
"""What only a process of its own imports: what runs at its import, and Ray."""


class Module(subprocess.Popen[str]):
    """``python -m module arguments``, with pipes for its stdout and stderr.

    Args:
        cwd: Its working folder.
        environment: All of its variables; by default those of the test.
        file_bytes: The most that a file of it may hold: a write beyond fails as on a full disk.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        cwd: Path,
        environment: dict[str, str] | None = None,
        file_bytes: int | None = None,
    ) -> None:
        self._file_bytes = file_bytes
        self._wanted = dict(os.environ if environment is None else environment)
        self._status: socket.socket | None = None
        command = [sys.executable, "-m", module, *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        limit = file_bytes and partial(_limit, file_bytes)
        super().__init__(command, cwd=cwd, env=self._wanted, preexec_fn=limit, **pipes)

    def _execute_child(self, args: list[str], *rest: Any) -> None:  # type: ignore[override]
        if sys.platform != "linux" or _at_start(self._wanted) != _at_start(ENVIRONMENT):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        folder, pipes = rest[4], rest[9:15]
        request = {"module": args[2], "arguments": args[3:], "cwd": str(folder), "env": self._wanted}
        request["file_bytes"] = self._file_bytes
        self._status, theirs = socket.socketpair()
        with theirs:
            _server().ask(request, [0, pipes[3], pipes[5], theirs.fileno()])
        pid = _number(self._status)
        assert pid, "the server that forks has ended"
        self.pid = pid
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        seconds = 0.0 if wait_flags & os.WNOHANG else None
        if not select.select([self._status], [], [], seconds)[0]:
            return 0, 0
        status = _number(self._status)
        self._status.close()
        return self.pid, 0 if status is None else status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            found, status = self._try_wait(os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    # The server's output is unbuffered, and so is that of its forks.
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(AT_START) and name != "PYTHONUNBUFFERED"
    }


def _limit(file_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def _number(pipe: socket.socket) -> int | None:
    """The next number that the other side sent; None where it has gone."""
    data = pipe.recv(4, socket.MSG_WAITALL)
    return struct.unpack("i", data)[0] if len(data) == 4 else None


class _Server:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._pipe, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.processes", str(theirs.fileno())],
                cwd=ROOT,
                env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], files: list[int]) -> None:
        data = json.dumps(request).encode()
        socket.send_fds(self._pipe, [struct.pack("i", len(data))], files)
        self._pipe.sendall(data)

    def close(self) -> None:
        self._pipe.close()
        self._process.wait()


_started: list[_Server] = []


def _server() -> _Server:
    if not _started:
        _started.append(_Server())
    return _started[0]


def _serve(pipe: socket.socket) -> dict[str, Any] | None:
    """Fork at each request; return it in the fork, and None in the server once the tests have ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    while True:
        head, files, _, _ = socket.recv_fds(pipe, 4, 4)
        if len(head) < 4:
            return None
        request: dict[str, Any] = json.loads(pipe.recv(struct.unpack("i", head)[0], socket.MSG_WAITALL))
        keeper = os.fork()
        if keeper == 0:
            pipe.close()
            _fork(files)
            return request
        for file in files:
            os.close(file)


def _fork(files: list[int]) -> None:
    """Return in a new process with these standard files; its parent reports how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, report = files
    child = os.fork()
    if child:
        for file in (0, 1, 2, *standard):
            os.close(file)
        os.write(report, struct.pack("i", child))
        _, status = os.waitpid(child, 0)
        os.write(report, struct.pack("i", status))
        os._exit(0)
    os.close(report)
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)


def _run(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # As for `python -m`: what is in the working folder can be imported.
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]
    if request["file_bytes"]:
        _limit(request["file_bytes"])
    code: int | None = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code
    # As Python ends, but for taking apart all that was imported, which lasts a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def _import_all() -> None:
    import fedmeta

    for found in pkgutil.walk_packages(fedmeta.__path__, "fedmeta."):
        if not found.name.startswith(NOT_AHEAD):
            import_module(found.name)
    for name in AHEAD:
        import_module(name)
    # Its function `main` is hidden by the module of that name once that is imported.
    del sys.modules["fedmeta.cli"]


if __name__ == "__main__":
    requests = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    if (wanted := _serve(requests)) is not None:
        _run(wanted)
