"""Stacked computation of a cohort's jobs, in this process and in worker processes."""

import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import IO, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.failures import Failure, describe, failure_of
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.federation.workload import Workload
from fedmeta.learning import Tensors, keep_freed_memory, one_thread


@dataclass(frozen=True)
class TrainJob:
    """A chunk of consecutive clients of a cohort, and their memory ``[C, ...]``."""

    round: int
    clients: tuple[int, ...]
    memory: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateJob:
    """One held-out client, in a round or (0) after the last round."""

    client: int
    round: int = 0


Job = TrainJob | EvaluateJob
JobResult = CohortUpdate | EvaluationSums | Failure
"""The outcome of a job; only an evaluation returns a failure of its own."""


class Executor(AbstractContextManager["Executor"], Protocol):
    """Computes jobs. Outcomes are the same bytes wherever they are computed."""

    def run(self, state: Tensors, jobs: Sequence[Job], deadline: float) -> Iterator[JobResult]:
        """Yield the outcomes in the order of `jobs`; stop early once `deadline` (monotonic) passes."""
        ...


def compute(learner: Learner, state: Tensors, job: Job) -> JobResult:
    """Do one job."""
    with one_thread():
        if isinstance(job, TrainJob):
            return learner.train(state, job.round, job.clients, job.memory)
        try:
            return learner.evaluate(state, job.client, job.round)
        except Exception as error:
            # A client's own code and data: whatever they raise fails that client only.
            return failure_of(error)


class InProcess(Executor):
    """Computes jobs one after the other in this process."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def run(self, state: Tensors, jobs: Sequence[Job], deadline: float) -> Iterator[JobResult]:
        """Yield the outcomes of `jobs`."""
        for job in jobs:
            if time.monotonic() > deadline:
                return
            yield compute(self.learner, state, job)

    def __exit__(self, *_: object) -> None:
        return None


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


Workers = int | Literal["auto"]


MESSAGE_SECONDS = 60
"""How long the transfer of a message to or from a worker may stall."""


def launch(
    entry: str, output: IO[bytes] | None = None
) -> tuple["subprocess.Popen[bytes]", "Connection[Any, Any]"]:
    """Start a worker.

    Args:
        entry: Python code to run; its end of the connection is the file descriptor ``argv[1]``.
        output: Where its stdout and stderr go; None: where ours go.

    Returns:
        The process, and our end, which raises OSError where a message stalls for `MESSAGE_SECONDS`.
    """
    ours, theirs = socket.socketpair()
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        # A worker that stalls in the middle of a message would block us forever.
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", MESSAGE_SECONDS, 0))
    environment = os.environ | {
        # The child must find the same modules, including a user's own.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    with theirs:
        process = subprocess.Popen(
            # -P: do not search the current folder before all others.
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
Packed = tuple[list[int], Arrays, Arrays, int, dict[int, Failure], Arrays] | EvaluationSums | Failure


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
        memory = to_arrays(outcome.memory)
        return outcome.clients, updates, metrics, outcome.tasks, outcome.failures, memory
    return outcome


def unpack_outcome(packed: Packed) -> JobResult:
    """Invert `pack_outcome`."""
    if isinstance(packed, tuple):
        clients, updates, metrics, tasks, failures, memory = packed
        return CohortUpdate(
            clients, to_tensors(updates), to_tensors(metrics), tasks, failures, to_tensors(memory)
        )
    return packed


def main() -> None:
    """Serve the parent, at file descriptor ``argv[1]``, until it closes the connection or dies."""
    torch.set_num_threads(1)
    keep_freed_memory()
    # The parent has read the same data and logged any warnings about it.
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
        # The parent continues without this process and logs why.
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
