"""Starts and stops Flower's Ray engine, and removes what it leaves on the disk."""

import contextlib
import copy
import fcntl
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedmeta.errors import RunError
from fedmeta.federation.client import sign_reply
from fedmeta.federation.client_states import ClientStates, put_versions, versions_in
from fedmeta.federation.codec import Codec
from fedmeta.federation.engines.client_app import ClientSide, build_ray_app
from fedmeta.federation.engines.node_directory import Directory, ignore
from fedmeta.federation.engines.ray import HERE, RayOptions, require_ray
from fedmeta.federation.engines.vector.jobs import Workers, available_cores
from fedmeta.federation.flower import as_server, silence
from fedmeta.federation.learner import Learner
from fedmeta.federation.signing import Signatures

START_SECONDS = 300.0
"""How long Ray may take to start, or to be reached, and to have its workers."""
END_SECONDS = 60.0
"""How long it may take to end once its workers have been killed."""

# Ray prints its errors on stdout, whatever it is told of logs; the first of these stops it.
_ENVIRONMENT = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Whatever is still asked of a Ray that was shut down would start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # On a busy machine a worker takes longer than Ray's minute to load what it needs.
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
}


@contextmanager
def open_ray(  # noqa: PLR0913 (three are optional)
    build: Callable[[], ClientSide],
    learner: Learner,
    options: RayOptions,
    workers: Workers = "auto",
    signatures: Signatures | None = None,
    states: ClientStates | None = None,
) -> Iterator[Directory]:
    """Open a grid of as many nodes as there are clients, which Ray's workers answer for.

    A worker that dies is started again, and what it was working on is computed once more.

    Args:
        build: Builds the clients' side in each worker; picklable.
        learner: The same in this process.
        options: Where Ray is.
        workers: Ray's workers on this machine; ``auto``: one per core. A cluster has one per core too.
        signatures: Signs in the name of each client, as its reply comes in; None: nobody signs.
        states: What clients remember: in Flower's contexts while they work, and here in between.

    Raises:
        UsageError: If the extra is not installed, or there is no cluster at the address.
        RunError: If Ray could not be started.
    """
    require_ray(options)
    count = available_cores() if workers == "auto" else workers
    clients = len(learner.workload.population)
    remembering = contexts_from(states) if states and learner.memory_template else nullcontext()
    with as_server(), silence(), _environment(), remembering, scratch() as folder:
        engine = _Engine(build_ray_app(build), clients, _backend(options, count, folder))
        try:
            yield Directory(engine.grid(), clients, engine.check, _signing(learner, signatures))
        finally:
            engine.end()


@contextmanager
def contexts_from(states: ClientStates) -> Iterator[None]:
    """Let Flower's engine, while it starts in the block, take what clients remember from `states`.

    Raises:
        RunError: If the installed Flower has another layout.
    """
    from flwr.server.superlink.fleet.vce import vce_api

    flowers = getattr(vce_api, _STORES, None)
    if flowers is None:
        raise RunError(f"this flwr is not laid out as expected (no {_STORES})")

    def register(nodes_mapping: Mapping[int, int], **more: Any) -> dict[int, "_Contexts"]:
        stores = flowers(nodes_mapping=nodes_mapping, **more)
        return {node: _Contexts(one, nodes_mapping[node], states) for node, one in stores.items()}

    setattr(vce_api, _STORES, register)
    try:
        yield
    finally:
        setattr(vce_api, _STORES, flowers)


_STORES = "_register_node_info_stores"


class _Contexts:
    """Flower's store of one node's context, but for what the client remembers."""

    def __init__(self, flowers: Any, client: int, states: ClientStates) -> None:
        self._flowers = flowers
        self._client = client
        self._states = states
        self._lent: dict[int, dict[int, bytes]] = {}

    def retrieve_context(self, run_id: int) -> Context:
        """Return the context with what the client remembers; each of Flower's threads has its copy."""
        context: Context = copy.copy(self._flowers.retrieve_context(run_id))
        context.state = context.state.copy()
        before = self._states.versions(self._client)
        self._lent[threading.get_ident()] = before
        put_versions(context.state, before)
        return context

    def update_context(self, run_id: int, context: Context) -> None:
        """Take the context back, after the client has worked."""
        before = self._lent.pop(threading.get_ident(), {})
        self._states.merge(self._client, before, versions_in(context.state))
        put_versions(context.state, {})
        self._flowers.update_context(run_id, context)


def _signing(learner: Learner, signatures: Signatures | None) -> Callable[[int, Message], None]:
    if signatures is None:
        return ignore
    codec = Codec(learner.template)

    def sign(client: int, reply: Message) -> None:
        if reply.metadata.message_type == MessageType.TRAIN and reply.has_content():
            sign_reply(reply.content, client, codec, signatures)

    return sign


def _backend(options: RayOptions, workers: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what Flower calls a backend config."""
    init: dict[str, Any] = {
        "address": options.address,
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
    }
    if options.address == HERE:
        init |= {"num_cpus": workers, "_temp_dir": str(folder)}
    # Flower passes these on to Ray's actors as they are. By default a dead one would stay in the pool
    # and fail every message that it is given.
    actor = {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": -1, "max_task_retries": 1}
    return {"init_args": init, "client_resources": actor}


class _Engine:
    """Flower's engine in a thread of its own, where its ServerApp does nothing but lend us the grid.

    So the rounds run in the thread that asked for them, and a Ctrl-C ends them at once.
    """

    def __init__(self, app: ClientApp, clients: int, backend: dict[str, dict[str, Any]]) -> None:
        self._lent: Queue[Grid] = Queue()
        self._done = threading.Event()
        self._failure: BaseException | None = None
        work = (app, clients, backend)
        self._thread = threading.Thread(target=self._run, args=work, name="ray-engine", daemon=True)
        self._thread.start()

    def _run(self, app: ClientApp, clients: int, backend: dict[str, dict[str, Any]]) -> None:
        server = ServerApp()

        @server.main()
        def lend(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's signature)
            self._lent.put(grid)
            self._done.wait()

        try:
            run_simulation(server, app, num_supernodes=clients, backend_config=backend)
        except BaseException as error:
            # Flower ends its engine by SystemExit too; whoever waits for the grid is told.
            self._failure = error

    def grid(self) -> Grid:
        """Wait for Flower's grid.

        Raises:
            RunError: If the engine ended, or has not started after `START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(Empty):
                return self._lent.get(timeout=0.1)
            self.check()
        raise RunError(f"Ray did not start within {START_SECONDS:g} s")

    def check(self) -> None:
        """Raise if the engine has ended.

        Raises:
            RunError: If it has.
        """
        if not self._thread.is_alive() and not self._done.is_set():
            cause = self._failure and (self._failure.__cause__ or self._failure)
            why = (cause and cause.__cause__) or cause
            raise RunError(f"Ray ended: {why or 'no reason given'}")

    def end(self) -> None:
        """End the engine and all of Ray's processes that it started."""
        with _stderr_closed():
            if self._thread.is_alive():
                # Flower waits without end for what is under way. That must be killed before Flower shuts
                # Ray down: it ends, with exit code 1, whoever asks something of it after that.
                with contextlib.suppress(Exception):
                    _kill_actors()
            self._done.set()
            self._thread.join(END_SECONDS)


def _kill_actors() -> None:
    """Kill our actors for good: who waits for their answers is told. Flower keeps their handles."""
    from ray import ActorID, get_runtime_context
    from ray._private import state, worker

    ours = get_runtime_context().get_job_id()
    for actor, about in state.actors().items():
        # A cluster has actors of others too.
        if about["JobID"] == ours:
            core = worker.global_worker.core_worker  # type: ignore[attr-defined]
            core.kill_actor(ActorID.from_hex(actor), True)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Drop what is written to stderr: Ray's library tells there, unasked, of each actor that it ends."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray's processes inherit, and put back what Flower changes of it."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name in ("PYTHONPATH", "PYTHONBREAKPOINT", "RAY_CLIENT_MODE", *_ENVIRONMENT):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


PREFIX = "fm-ray-"
LOCK = "fedmeta.lock"


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for Ray's sockets and logs, and remove it with the block.

    Folders of runs that were killed, which could not do so, are removed as well: a lock tells them from
    those in use.

    Args:
        parent: Where it goes; None: in the system's folder for temporary files.
    """
    parent = parent or _short()
    remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        # Ray's processes may be writing their last lines.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.2)
        os.close(lock)


def _short() -> Path:
    # A socket's path may have no more than 107 bytes, and Ray adds 64.
    return Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())


def remove_stale(parent: Path) -> None:
    """Remove this user's folders whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            # One that has no lock yet is being made.
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
