"""Starts and stops Flower's Ray engine, and removes the files that it leaves."""

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
from fedmeta.federation.accounts import Signatures
from fedmeta.federation.client import sign_reply
from fedmeta.federation.client_states import ClientStates, put_versions, versions_in
from fedmeta.federation.codec import Codec
from fedmeta.federation.engines.client_app import ClientSide, build_ray_app
from fedmeta.federation.engines.node_directory import NodeDirectory, ignore
from fedmeta.federation.engines.ray import HERE, RayOptions, require_ray
from fedmeta.federation.engines.vector.jobs import Workers, available_cores
from fedmeta.federation.flower import as_server, quiet
from fedmeta.federation.learner import Learner

START_SECONDS = 300.0
"""How long Ray may take to start or to be reached, with its workers."""
END_SECONDS = 60.0
"""How long it may take to end once its workers have been killed."""

# Ray prints its errors to stdout whatever its log level; the first of these stops that.
_ENVIRONMENT = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise a late call after Ray has shut down would start another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # On a busy machine a worker takes longer to load than Ray's limit of a minute.
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
) -> Iterator[NodeDirectory]:
    """Open a grid with one node per client, run by Ray's workers.

    A worker that dies is restarted, and its task is computed again.

    Args:
        build: Builds the clients' side in each worker; picklable.
        learner: The clients' learner in this process.
        options: Ray's address.
        workers: Ray's workers on this machine; ``auto``: one per core. A cluster has one per core too.
        signatures: Signs as each client when its reply arrives; None: replies are not signed.
        states: Clients' memory, which is in Flower's contexts while they work.

    Raises:
        UsageError: If the extra is not installed, or there is no cluster at the address.
        RunError: If Ray could not be started.
    """
    require_ray(options)
    count = available_cores() if workers == "auto" else workers
    clients = len(learner.workload.population)
    remembering = contexts_from(states) if states and learner.memory_template else nullcontext()
    # Errors that matter arrive as replies.
    with as_server(), quiet(logging.CRITICAL + 1), _environment(), remembering, scratch() as folder:
        engine = _Engine(build_ray_app(build), clients, _backend(options, count, folder))
        try:
            yield NodeDirectory(engine.grid(), clients, engine.check, _signing(learner, signatures))
        finally:
            engine.end()


@contextmanager
def contexts_from(states: ClientStates) -> Iterator[None]:
    """Make an engine that Flower starts in the block keep clients' memory in `states`.

    Raises:
        RunError: If the installed Flower has a different layout.
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
    """Flower's store of one node's context, without the client's memory."""

    def __init__(self, flowers: Any, client: int, states: ClientStates) -> None:
        self._flowers = flowers
        self._client = client
        self._states = states
        self._lent: dict[int, dict[int, bytes]] = {}

    def retrieve_context(self, run_id: int) -> Context:
        """Return a copy of the context, with the client's memory, for this one of Flower's threads."""
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
    # Flower passes these to Ray's actors unchanged. By default a dead one would stay in the pool and
    # fail each of its messages.
    actor = {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": -1, "max_task_retries": 1}
    return {"init_args": init, "client_resources": actor}


class _Engine:
    """Flower's engine in its own thread, where the ServerApp only lends us its grid.

    Rounds thus run in the caller's thread, and Ctrl-C ends them at once.
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
            # Flower may end its engine by SystemExit; `check` reports it to the caller.
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
                # Flower waits forever for running tasks. Kill them before Flower shuts Ray down: calls
                # to Ray after that end their process with exit code 1.
                with contextlib.suppress(Exception):
                    _kill_actors()
            self._done.set()
            self._thread.join(END_SECONDS)


def _kill_actors() -> None:
    """Kill our actors for good, which fails calls that wait for them. Flower keeps their handles."""
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
    """Discard stderr: Ray's library reports there each actor that it ends."""
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
    """Set the environment that Ray's processes inherit, and undo Flower's changes to it."""
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
    """Make a folder for Ray's sockets and logs, and remove it after the block.

    Folders left by killed runs are removed too: those in use are locked.

    Args:
        parent: Where it goes; None: the system's folder for temporary files.
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
    # A socket's path may have at most 107 bytes, and Ray adds 64.
    return Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())


def remove_stale(parent: Path) -> None:
    """Remove this user's folders whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            # A folder without a lock is being made: this raises, and skips it.
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
