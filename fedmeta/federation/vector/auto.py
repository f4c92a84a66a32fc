"""The choice whether to compute in this process or in several."""

import logging
import time
from collections.abc import Iterator, Sequence

from fedmeta.federation.learner import Learner
from fedmeta.federation.vector.execution import (
    Executor,
    InProcess,
    Job,
    Outcome,
    Workers,
    available_cores,
)
from fedmeta.federation.vector.pool import ProcessPool
from fedmeta.learning import Tensors

log = logging.getLogger(__name__)

WORTHWHILE_SECONDS = 10.0
"""Time that workers must save over the rest of a run for ``auto`` to start them."""


class Auto(Executor):
    """Starts in this process, measures, and moves to worker processes where they save time.

    Where a job is computed never changes its outcome, so timing may decide here.

    Args:
        learner: The clients' side.
        rounds: How many times `run` will be called, about.
    """

    def __init__(self, learner: Learner, rounds: int) -> None:
        self.learner = learner
        self.rounds = rounds
        self.pool: ProcessPool | None = None
        self._measured = 0

    def run(self, state: Tensors, jobs: Sequence[Job], deadline: float) -> Iterator[Outcome]:
        """Yield the outcomes of `jobs`, moving over in the middle if that is when workers are ready."""
        self.rounds -= 1
        local = InProcess(self.learner)
        for index, job in enumerate(jobs):
            if self.pool is not None and self.pool.ready():
                yield from self.pool.run(state, jobs[index:], deadline)
                return
            began = time.perf_counter()
            outcomes = list(local.run(state, [job], deadline))
            if not outcomes:
                return
            self._consider(time.perf_counter() - began, len(jobs), len(jobs) - index - 1)
            yield outcomes[0]

    def _consider(self, seconds: float, width: int, left: int) -> None:
        """Start workers if the rest of the run is long enough to repay their start."""
        self._measured += 1
        count = min(available_cores(), width)
        # The first job pays for warming up and says little.
        if self.pool is not None or count < 2 or self._measured < 3:
            return
        rest = seconds * (left + max(0, self.rounds) * width)
        if rest * (1.0 - 1.0 / count) > WORTHWHILE_SECONDS:
            log.info("starting %d worker processes", count)
            self.pool = ProcessPool(self.learner, count)

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.__exit__()


def build_executor(learner: Learner, workers: Workers, rounds: int) -> Executor:
    """Return what computes the jobs of a run.

    Args:
        learner: The clients' side.
        workers: Processes: 1 is this one, more are workers beside it, ``auto`` decides by measuring.
        rounds: Length of the run, for ``auto``.
    """
    if workers == "auto":
        return Auto(learner, rounds)
    return ProcessPool(learner, workers) if workers > 1 else InProcess(learner)
