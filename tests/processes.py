"""Python processes at the price of a fork: a server that has imported fedmeta forks each.

A process so made has its own id, files, folder and environment like any other, and can be killed. It
begins with `import fedmeta` done, which takes longer than most tests.
"""

import atexit
import fcntl
import gc
import importlib
import io
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE

_ROOT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = dict(os.environ)
"""As it was before any test changed it."""
_AT_START = ("PYTHON", "LC_", "LANG", "LD_")
"""Variables that an interpreter reads once, as it starts."""
_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
"""Of these, the ones that a fork can follow; the server is unbuffered, and so is every fork."""
_AHEAD = ("tests.chain.settle.forks",)
"""What forks are asked to run, beside fedmeta."""
_NOT_AHEAD = ("fedmeta.__main__", "fedmeta.app", "fedmeta.bench", "fedmeta.federation.engines.ray")
"""What runs at its import, and Ray."""


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` of this interpreter with ``-m module`` or ``-c code``, forked where it can be.

    Args:
        file_bytes: The most that a file of it may hold: a write beyond fails as on a full disk.
    """

    def __init__(self, args: Sequence[str], *, file_bytes: int | None = None, **more: Any) -> None:
        self._file_bytes = file_bytes
        self._report: socket.socket | None = None
        super().__init__(args, preexec_fn=file_bytes and (lambda: _limit(file_bytes)), **more)

    def _execute_child(self, args: list[str], *rest: Any) -> None:  # type: ignore[override]
        _, _, _, passed, folder, env, *_ = rest
        pipes, session = rest[9:15], rest[20]
        environment = dict(os.environ if env is None else env)
        # With -P, nothing is imported from the working folder.
        safe, command = args[1] == "-P", args[1 + (args[1] == "-P") :]
        alike = _at_start(environment) == _at_start(_ENVIRONMENT)
        if sys.platform != "linux" or command[0] not in ("-m", "-c") or not alike:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        standard = [pipes[0], pipes[3], pipes[5]]
        files = {number: number if file == -1 else file for number, file in enumerate(standard)}
        files |= {file: file for file in passed}
        request = {
            "how": command[0],
            "what": command[1],
            "arguments": command[2:],
            "safe": safe,
            "cwd": str(folder or Path.cwd()),
            "environment": environment,
            "files": list(files),
            "file_bytes": self._file_bytes,
            "session": session,
        }
        self._report = _ask(request, list(files.values()))
        pid = _number(self._report)
        assert pid, "the server that forks has ended"
        self.pid = pid
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._report is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        seconds = 0.0 if wait_flags & os.WNOHANG else None
        if not select.select([self._report], [], [], seconds)[0]:
            return 0, 0
        status = _number(self._report)
        self._report.close()
        return self.pid, 0 if status is None else status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            found, status = self._try_wait(os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def run(args: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Wait for a process, and return what it printed."""
    with Popen(args, **{"stdout": PIPE, "stderr": PIPE, "text": True} | more) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    names = (name for name in environment if name.startswith(_AT_START) and name not in _LATER)
    return {name: environment[name] for name in names}


def _limit(file_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def _number(pipe: socket.socket) -> int | None:
    """The next number from the other side; None if it has closed."""
    data = pipe.recv(4, socket.MSG_WAITALL)
    return struct.unpack("i", data)[0] if len(data) == 4 else None


_ADDRESS = "FEDMETA_TEST_FORKS"
"""Environment variable with the socket of the server that forks, which all pytest workers share."""


def start_server() -> Callable[[], None]:
    """Start the server that forks for this process and those that it starts; return what ends it."""
    folder = TemporaryDirectory(prefix="fedmeta-forks-")
    os.environ[_ADDRESS] = str(Path(folder.name, "socket"))
    listening = socket.socket(socket.AF_UNIX)
    with listening:
        listening.bind(os.environ[_ADDRESS])
        listening.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes", str(listening.fileno())],
            cwd=_ROOT,
            env=_ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )

    def end() -> None:
        # It ends with its stdin.
        process.communicate()
        folder.cleanup()

    return end


def _ask(request: dict[str, Any], files: list[int]) -> socket.socket:
    """Ask for a fork; return where its number will be told, and how it ended."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ[_ADDRESS])
    data = json.dumps(request).encode()
    socket.send_fds(server, [struct.pack("i", len(data))], files)
    server.sendall(data)
    return server


def _serve(listening: socket.socket, stdin: int) -> dict[str, Any] | None:
    """Fork at each request; return it in the fork, and None in the server once the tests have ended."""
    awake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reports: dict[int, socket.socket] = {}
    while True:
        ready = select.select([listening, awake, stdin], [], [])[0]
        if awake in ready:
            os.read(awake, 4096)
            _tell_ends(reports)
        elif stdin in ready:
            return None
        else:
            report = listening.accept()[0]
            if "fedmeta" not in sys.modules:
                _import_all()
                os.fsync = lambda _: None
                gc.freeze()
            request, files = _receive(report)
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for place in (listening, report, *reports.values()):
                    place.close()
                for file in (awake, alarm):
                    os.close(file)
                _place(files, request["files"])
                return request
            for file in files:
                os.close(file)
            reports[child] = report
            report.sendall(struct.pack("i", child))


def _receive(report: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request and its open files."""
    head, files, _, _ = socket.recv_fds(report, 4, 16)
    data = report.recv(struct.unpack("i", head)[0], socket.MSG_WAITALL)
    return json.loads(data), files


def _tell_ends(reports: dict[int, socket.socket]) -> None:
    """Report the exit status of each child that has ended."""
    while reports:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        # Whoever started it may have gone.
        with reports.pop(child) as report, suppress(OSError):
            report.sendall(struct.pack("i", status))


def _place(files: list[int], numbers: list[int]) -> None:
    """Give files their numbers."""
    away = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 512) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(away, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(request: dict[str, Any], path: list[str]) -> None:
    """Do what was asked for, as Python would that was started for it; `path` is that of any."""
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["file_bytes"]:
        _limit(request["file_bytes"])
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdout = _unbuffered(1, encoding, "strict")
        sys.stderr = _unbuffered(2, encoding, "backslashreplace")
    if threads := os.environ.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))
    module = request["how"] == "-m"
    here = [] if request["safe"] else [request["cwd"] if module else ""]
    sys.path[:] = [*here, *_search_path(), *path]
    sys.argv[:] = ["-m" if module else "-c", *request["arguments"]]
    code: int | None = 0
    try:
        if module:
            runpy.run_module(request["what"], run_name="__main__", alter_sys=True)
        else:
            exec(request["what"], {"__name__": "__main__"})
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code
    # As Python ends, but for taking apart all that was imported, which lasts a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _unbuffered(number: int, encoding: str, errors: str) -> io.TextIOWrapper:
    # Anew: those that there are remember the files that they were opened on.
    raw = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding, errors, write_through=True)  # type: ignore[type-var]


def _search_path() -> list[str]:
    return [name for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]


def _import_all() -> None:
    fedmeta = importlib.import_module("fedmeta")
    for found in pkgutil.walk_packages(fedmeta.__path__, "fedmeta."):
        if not found.name.startswith(_NOT_AHEAD):
            importlib.import_module(found.name)
    for name in _AHEAD:
        importlib.import_module(name)
    # Its function `main` is hidden by the module of that name once that is imported.
    del sys.modules["fedmeta.cli"]


if __name__ == "__main__":
    # An editable install, and what else a site adds, lies behind the folder and the variable.
    everyones = sys.path[1 + len(_search_path()) :]
    # Ignored where the tests run in the background of a shell, or under nohup.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        wanted = _serve(listening, sys.stdin.fileno())
    if wanted is not None:
        _run(wanted, everyones)
