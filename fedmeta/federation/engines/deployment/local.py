"""Starts a SuperLink and SuperNodes on this machine."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from fedmeta.errors import RunError, UsageError
from fedmeta.federation.engines.deployment import DeploymentOptions, require_superlink
from fedmeta.federation.engines.deployment.superlink import (
    CONNECTION,
    QUIET,
    flwr,
    program,
    write_connection,
)
from fedmeta.federation.engines.deployment.supernode import HOST, SuperNode, free_port, pinned
from fedmeta.federation.engines.deployment.tls import (
    Certificates,
    NodeKey,
    make_certificates,
    make_node_key,
)
from fedmeta.files import open_own

START_SECONDS = 120.0
"""How long the SuperLink may take to come up."""
CHECK_SECONDS = 0.5
"""Seconds between checks of the processes."""
END_SECONDS = 10.0
"""How long a process may take to terminate before it is killed."""


@dataclass(frozen=True)
class Layout:
    """What to start.

    Attributes:
        folder: Where logs, certificates and keys go.
        nodes: How many SuperNodes; node i holds partition i.
        port: The SuperLink's port.
        secure: Encrypt with TLS, and admit only registered nodes.
        data: Data folder by node; other nodes use ``FEDMETA_DATA``.
        enrol: Makes a node's keys and admits it; None: nodes have no accounts.
        allow_code: Whether nodes import what a config names by a dotted path.
    """

    folder: Path
    nodes: int
    port: int
    secure: bool = False
    data: Mapping[int, Path] = field(default_factory=dict)
    enrol: "Enrol | None" = None
    allow_code: bool = False


class Enrol(Protocol):
    """Gives nodes their accounts; see `fedmeta.experiment.roster.LocalNodes`."""

    @property
    def roster(self) -> Path:
        """The file that says which node holds which partition."""
        ...

    def join(self, partition: int) -> tuple[NodeKey, Path]:
        """Make the keys of a node; return its node key, and the file of its account."""
        ...

    def admit(self, partition: int, node: int | None) -> None:
        """Admit the node of a partition, under the SuperLink's id of it if there is one."""
        ...


@dataclass(frozen=True)
class LocalFederation:
    """The processes of a running federation.

    Attributes:
        options: How to reach it.
        home: A home folder for `flwr`, with the connection ``fedmeta`` in it.
        superlink: The SuperLink's process.
        nodes: The SuperNodes' processes, by partition.
    """

    options: DeploymentOptions
    home: Path
    superlink: subprocess.Popen[bytes]
    nodes: Sequence[subprocess.Popen[bytes]]

    def watch(self, tell: Callable[[str], None]) -> NoReturn:
        """Wait until the SuperLink ends, and report each SuperNode that ends before.

        Raises:
            RunError: When it has ended.
        """
        left = dict(enumerate(self.nodes))
        while self.superlink.poll() is None:
            for partition in [number for number, node in left.items() if node.poll() is not None]:
                tell(
                    f"SuperNode of partition {partition} ended with exit code "
                    f"{left.pop(partition).returncode}"
                )
            time.sleep(CHECK_SECONDS)
        raise RunError(f"the SuperLink ended with exit code {self.superlink.returncode}")


@contextmanager
def run_local(layout: Layout, tell: Callable[[str], None] = lambda _: None) -> Iterator[LocalFederation]:
    """Start a federation, and end all its processes with the block.

    Args:
        layout: What to start.
        tell: Called with a line about each step.

    Raises:
        UsageError: If the port or the folder is in use, or the folder cannot be made.
        RunError: If a process did not start.
    """
    try:
        layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot use the folder {layout.folder}: {reason}") from None
    with _locked(layout.folder), contextlib.ExitStack() as stack:
        _require_free(layout.port)
        yield _start(layout, stack, tell)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock ends with the process, however it ends."""
    with open(open_own(folder / "lock", os.O_WRONLY | os.O_APPEND), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"a federation already runs in {folder}: choose another --dir") from None
        yield


def _start(layout: Layout, stack: contextlib.ExitStack, tell: Callable[[str], None]) -> LocalFederation:
    made = make_certificates(layout.folder, ["localhost", HOST]) if layout.secure else None
    options = DeploymentOptions(
        address=f"{HOST}:{layout.port}",
        certificate=str(made.authority.resolve()) if made else None,
        roster=str(layout.enrol.roster.resolve()) if layout.enrol else None,
    )
    home = layout.folder / "home"
    write_connection(home, options)
    superlink = stack.enter_context(
        _process(_superlink(layout, made), layout.folder / "superlink.log", home, _environment())
    )
    _wait_for(options, superlink, layout.folder / "superlink.log")
    tell(f"SuperLink at {options.address}, process {superlink.pid}")
    nodes = []
    for partition in range(layout.nodes):
        command = _supernode(layout, partition, options, home).command()
        log = layout.folder / f"node-{partition}.log"
        nodes.append(stack.enter_context(_process(command, log, home, pinned(layout.folder))))
        tell(f"SuperNode of partition {partition}, process {nodes[-1].pid}")
    return LocalFederation(options, home, superlink, nodes)


def _superlink(layout: Layout, made: Certificates | None) -> list[str]:
    trust = ["--insecure"]
    if made:
        trust = ["--ssl-ca-certfile", str(made.authority), "--ssl-certfile", str(made.certificate)]
        trust += ["--ssl-keyfile", str(made.key), "--enable-supernode-auth"]
    listen = ["--host", HOST, "--port", str(layout.port)]
    options = [*trust, *listen, "--disable-runtime-dependency-installation"]
    return [program("flower-superlink"), *options]


def _supernode(layout: Layout, partition: int, options: DeploymentOptions, home: Path) -> SuperNode:
    """Make the keys of a node, and admit it."""
    key, account, node = None, None, None
    if layout.enrol:
        key, account = layout.enrol.join(partition)
    elif layout.secure:
        key = make_node_key(layout.folder / "keys", f"node-{partition}")
    if key and layout.secure:
        node = int(flwr(home, "supernode", "register", str(key.public), CONNECTION)["node-id"])
    if layout.enrol:
        layout.enrol.admit(partition, node)
    return SuperNode(
        superlink=options.address,
        partition=partition,
        port=free_port(),
        certificate=options.certificate,
        key=key.private if key and layout.secure else None,
        account=account,
        data=layout.data.get(partition),
        allow_code=layout.allow_code,
        memory=layout.folder / "memory",
    )


def _environment() -> Mapping[str, str]:
    path = os.pathsep.join([str(Path(program("flower-superlink")).parent), os.environ.get("PATH", "")])
    # Flower starts its own programs by name.
    return {**os.environ, **QUIET, "PATH": path}


@contextmanager
def _process(
    command: Sequence[str], log: Path, home: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's programs with its log in a file; it ends with the block."""
    with open(open_own(log, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**environment, "FLWR_HOME": str(home)},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and what it started in its session; Flower's own programs end with their parent."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(options: DeploymentOptions, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(UsageError):
            return require_superlink(options)
        time.sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise RunError(
        f"the SuperLink did not start: {lines[-1] if lines else 'it printed nothing'}; see {log}"
    )


def _require_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used: {error.strerror}; choose another --port"
            ) from None
