"""Stacked computation of a cohort's jobs, and where it runs."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.failures import Failure, failure_of
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.learning import Tensors


@dataclass(frozen=True)
class TrainJob:
    """A chunk of consecutive clients of a cohort."""

    round: int
    clients: tuple[int, ...]


@dataclass(frozen=True)
class EvaluateJob:
    """One held-out client, in a round or (0) after the last."""

    client: int
    round: int = 0


Job = TrainJob | EvaluateJob
JobResult = CohortUpdate | EvaluationSums | Failure
"""What a job came to; a failure is that of an evaluation."""


class Executor(AbstractContextManager["Executor"], Protocol):
    """Computes jobs. What comes out is the same bytes wherever it was computed."""

    def run(self, state: Tensors, jobs: Sequence[Job], deadline: float) -> Iterator[JobResult]:
        """Yield the outcomes in the order of `jobs`; stop early once `deadline` (monotonic) is past."""
        ...


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in the block: how sums are split over threads changes their last bits."""
    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


def compute(learner: Learner, state: Tensors, job: Job) -> JobResult:
    """Do one job."""
    with one_thread():
        if isinstance(job, TrainJob):
            return learner.train(state, job.round, job.clients)
        try:
            return learner.evaluate(state, job.client, job.round)
        except Exception as error:
            # A client's own code and data: whatever it raises is that client's failure alone.
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
