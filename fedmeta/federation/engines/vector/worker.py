"""Starts worker processes, and what runs in one."""

import logging
import os
import socket
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.federation.engines.vector.jobs import Job, JobResult, compute
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.failures import Failure, describe
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.federation.workload import Workload
from fedmeta.learning import Tensors, keep_freed_memory

MESSAGE_SECONDS = 60
"""How long a worker may take no byte, or give none, in the middle of a message."""


def launch(
    entry: str, output: IO[bytes] | None = None
) -> tuple["subprocess.Popen[bytes]", "Connection[Any, Any]"]:
    """Start a worker.

    Args:
        entry: Python code to run; it finds its end of the connection at the descriptor ``argv[1]``.
        output: Where its stdout and stderr go; None: where ours do.

    Returns:
        The process, and our end. It raises OSError where a message stands still for `MESSAGE_SECONDS`.
    """
    ours, theirs = socket.socketpair()
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        # A worker that stands still in the middle of a message would hold us for ever.
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", MESSAGE_SECONDS, 0))
    environment = os.environ | {
        # The child must find the same modules, a user's own among them.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    with theirs:
        process = subprocess.Popen(
            # -P: the current folder is no place to look in before all others.
            [sys.executable, "-P", "-c", entry, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Its own session: Ctrl-C reaches only us. It ends when our end of the pair closes.
            start_new_session=True,
        )
    return process, Connection(ours.detach())


READY = "ready"
Arrays = dict[str, NDArray[Any]]
Packed = tuple[list[int], Arrays, Arrays, int, dict[int, Failure]] | EvaluationSums | Failure


def to_arrays(tensors: Tensors) -> Arrays:
    """Return tensors as C-ordered arrays, which pickle into one block each."""
    return {key: np.ascontiguousarray(value.detach().numpy()) for key, value in tensors.items()}


def to_tensors(arrays: Arrays) -> Tensors:
    """Return the tensors of `to_arrays`."""
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def pack_outcome(outcome: JobResult) -> Packed:
    """Make an outcome ready to cross a pipe."""
    if isinstance(outcome, CohortUpdate):
        updates, metrics = to_arrays(outcome.updates), to_arrays(outcome.metrics)
        return outcome.clients, updates, metrics, outcome.tasks, outcome.failures
    return outcome


def unpack_outcome(packed: Packed) -> JobResult:
    """Return what `pack_outcome` was given."""
    if isinstance(packed, tuple):
        clients, updates, metrics, tasks, failures = packed
        return CohortUpdate(clients, to_tensors(updates), to_tensors(metrics), tasks, failures)
    return packed


def main() -> None:
    """Serve the parent, at file descriptor ``argv[1]``, until it closes the connection or dies."""
    torch.set_num_threads(1)
    keep_freed_memory()
    # What is odd about the data was said by the parent, which read the same.
    logging.getLogger("fedmeta.tasks").setLevel(logging.ERROR)
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        _serve(connection)
    except (EOFError, ConnectionError):
        return


def _serve(connection: "Connection[Any, Any]") -> None:
    workload: Workload = connection.recv()
    try:
        learner = Learner.build(workload)
    except Exception as error:
        # The parent goes on without this process and says why.
        connection.send(describe(error))
        return
    connection.send(READY)
    state: Tensors = {}
    while True:
        order: Arrays | Job = connection.recv()
        if isinstance(order, dict):
            state = to_tensors(order)
        else:
            connection.send(pack_outcome(compute(learner, state, order)))
