"""The ClientApp on Ray workers and SuperNodes."""

import logging
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedmeta.federation.accounts import Signing
from fedmeta.federation.behaviours import mods_for
from fedmeta.federation.client import CONFIG, build_client_app, failed, partition_of
from fedmeta.federation.client_memory import MEMORY
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.failures import Failure, watched
from fedmeta.federation.faults import FaultPlan, fault_mod
from fedmeta.federation.learner import Learner
from fedmeta.federation.mods import user_mods
from fedmeta.federation.workload import Workload
from fedmeta.learning import keep_freed_memory
from fedmeta.learning.device import one_thread

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""Seconds of grace for an operation that began within a message's time limit."""


@dataclass(frozen=True)
class ClientSide:
    """What a process needs to answer for clients.

    Attributes:
        learner: The clients' side of the workload.
        mods: Flower mods by client; they wrap that client's app alone.
        everybody: Flower mods around every client's own.
        signatures: Signs as each client; None: replies are not signed here.
    """

    learner: Learner
    mods: Mapping[int, Sequence[Mod]] = field(default_factory=dict)
    everybody: Sequence[Mod] = ()
    signatures: Signing | None = None


def build_side(
    workload: Workload,
    behaviours: Sequence[Mapping[str, Any]],
    faults: FaultPlan | None = None,
    mods: Sequence[str] = (),
) -> ClientSide:
    """Build the clients' side from plain values.

    Args:
        workload: The clients' work.
        behaviours: Misbehaving clients; see `mods_for`.
        faults: Injected client faults; see `fault_mod`. None: no faults.
        mods: A user's mods around every client's training, by dotted path.
    """
    learner = Learner.build(workload)
    everybody = [fault_mod(faults, learner)] if faults else []
    everybody += user_mods(mods, workload.local_lr)
    return ClientSide(learner, mods_for(behaviours, workload), everybody)


def _endless(_: Context) -> None:
    """Set no limit."""


def _nowhere(_: Context) -> None:
    """Keep nothing on disk."""


def build_remote_app(
    side: Callable[[Context], ClientSide],
    limit: Callable[[Context], float | None] = _endless,
    memory: Callable[[Context], Path | None] = _nowhere,
) -> ClientApp:
    """Build a ClientApp whose parts are built in the process where it runs.

    Args:
        side: Returns the clients' side. Called for each message, so it should cache it.
        limit: Returns the time limit of one message, in seconds; None: no limit.
        memory: Returns the folder of this client's memory; None: memory stays in Flower's context.
    """
    app = ClientApp(mods=[_failures_are_replies])

    def answer(message: Message, context: Context) -> Message:
        with one_thread(), at_most(limit(context)):
            parts = side(context)
            mods = [*parts.everybody, *parts.mods.get(partition_of(context), ())]
            app_ = build_client_app(parts.learner, mods, parts.signatures)
            with on_disk(memory(context), message, context):
                return app_(message, context)

    for register in (app.train, app.evaluate, app.query):
        register()(answer)
    return app


@contextmanager
def on_disk(folder: Path | None, message: Message, context: Context) -> Iterator[None]:
    """Load a client's memory from a folder into its context, and save it after the block.

    Each run has its own file there, named by its server.

    Args:
        folder: The folder; None: the memory is only in the context.
        message: The request.
        context: The client's context.
    """
    config = message.content.get(CONFIG) if message.has_content() else None
    run = config.get(MEMORY) if isinstance(config, ConfigRecord) else None
    if folder is None or not isinstance(run, str) or not re.fullmatch("[0-9a-f]{32}", run):
        yield
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = partition_of(context)
    with closing(ClientStates(folder / f"{run}-{client}.sqlite")) as states:
        with states.in_context(client, context.state):
            yield
        states.commit()


class TooLongError(BaseException):
    """A message took longer than the node allows.

    Not an `Exception`, so code that catches errors and tries another way does not go on working.
    """


@contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """Raise in the block after `seconds`; None: never.

    A single PyTorch operation cannot be interrupted: a process that is stuck in one exits without a
    reply after `GRACE_SECONDS` more. There is no limit outside the main thread.

    Raises:
        TooLongError: In the block.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TooLongError(f"this node works on a message for {seconds:g} s at most")

    last = threading.Timer(seconds + GRACE_SECONDS, os._exit, (1,))
    last.daemon = True
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    last.start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        last.cancel()


def _failures_are_replies(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Reply with a one-line reason, where an engine would send a traceback or nothing."""
    with watched(_log):
        try:
            return call_next(message, context)
        except (Exception, SystemExit, TooLongError) as error:
            # A client's own code and data: whatever they raise fails that client only.
            return failed(error, message, context)


def _log(round_: int, client: int | None, failure: Failure) -> None:
    """Log the traceback in this process: it must not cross the grid."""
    log.warning("round %d, client %s failed\n%s", round_, client, failure.traceback or failure.reason)


def build_ray_app(build: Callable[[], ClientSide]) -> ClientApp:
    """Build the ClientApp that Flower sends to a worker with each message, a few kilobytes long.

    Args:
        build: Builds the clients' side in the worker; it must be picklable, and small when pickled.
    """
    return build_remote_app(partial(_side, pickle.dumps(build)))


def _side(pickled: bytes, _: Context) -> ClientSide:
    return _build(pickled)


@lru_cache(maxsize=1)
def _build(pickled: bytes) -> ClientSide:
    keep_freed_memory()
    build: Callable[[], ClientSide] = pickle.loads(pickled)
    return build()
