"""Pool of worker processes, and the choice whether to use one."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fedmeta.federation.engines.vector.jobs import (
    READY,
    EvaluateJob,
    Executor,
    InProcess,
    Job,
    JobResult,
    Workers,
    available_cores,
    compute,
    launch,
    to_arrays,
    unpack_outcome,
)
from fedmeta.federation.failures import Failure
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.learning import Tensors

log = logging.getLogger(__name__)

JOBS_AHEAD = 2
"""Jobs queued at each worker, so that it never idles; it holds results computed ahead."""
STARTUP_SECONDS = 120.0
"""How long a worker may take to import and load its data before the run continues without it."""
JOB_SECONDS = 600.0
"""How long a worker may be silent before it is considered stuck, if no deadline comes first."""

_ENTRY = "from fedmeta.federation.engines.vector.jobs import main; main()"
_ELSEWHERE = "its clients are computed elsewhere"


class _Gone(Exception):
    """A worker died."""


class _Stuck(_Gone):
    """A worker was too slow and has been stopped."""


class Worker:
    """One worker process, which only this process starts and stops."""

    def __init__(self, learner: Learner) -> None:
        self.process, self.connection = launch(_ENTRY)
        self.ready = False
        self.alive = True
        self.given_up = False
        self.waiting = 0
        self._started = time.monotonic()
        self.send(learner.workload)

    def send(self, order: object) -> None:
        """Send the workload, a state or a job; a dead worker may be noticed only later."""
        try:
            self.connection.send(order)
        except OSError:
            self.stop(f"died; {_ELSEWHERE}")

    def receive(self, deadline: float) -> Any:
        """Wait for the worker's next message.

        Raises:
            _Gone: If it died, or the deadline passed, which stops it.
        """
        if not self.alive:
            raise _Gone
        try:
            if self.connection.poll(max(0.0, deadline - time.monotonic())):
                return self.connection.recv()
        except (EOFError, OSError):
            self.stop(f"died; {_ELSEWHERE}")
            raise _Gone from None
        self.given_up = True
        self.stop("did not answer in time; its job is given up")
        raise _Stuck

    def becomes_ready(self, wait: bool) -> bool:
        """Return whether the worker has loaded its data; with `wait`, wait until it has or is gone."""
        late = self._started + STARTUP_SECONDS
        if (
            not self.ready
            and self.alive
            and (wait or time.monotonic() > late or self.connection.poll(0))
        ):
            try:
                answer = self.receive(late)
            except _Gone:
                return False
            self.ready = answer == READY
            if not self.ready:
                self.stop(f"could not start: {answer}; {_ELSEWHERE}")
        return self.ready and self.alive

    def stop(self, why: str | None = None) -> None:
        """Kill the process."""
        if not self.alive:
            return
        self.alive = False
        self.connection.close()
        self.process.kill()
        self.process.wait()
        if why:
            log.warning("worker process %d %s", self.process.pid, why)


class ProcessPool(Executor):
    """Computes jobs in worker processes; a lost worker's jobs are computed in this process.

    The job that a worker was stuck in fails instead. Workers start with the first job; if all of them
    were stopped for being too slow, new ones replace them.

    Args:
        learner: The clients' side; every worker builds its own from the same workload.
        count: Worker processes.
    """

    def __init__(self, learner: Learner, count: int) -> None:
        self.learner = learner
        self.count = count
        self.workers: list[Worker] = []

    def start(self) -> None:
        """Start the workers if they have not started or were given up."""
        if any(worker.alive or not worker.given_up for worker in self.workers):
            return
        self.workers = []
        try:
            for _ in range(self.count):
                self.workers.append(Worker(self.learner))
        except BaseException:
            self.__exit__()
            raise

    def ready(self, wait: bool = False) -> bool:
        """Return whether every worker that is still alive can take jobs; start them if need be."""
        self.start()
        states = [worker.becomes_ready(wait) for worker in self.workers if worker.alive]
        return all(states)

    def run(self, state: Tensors, jobs: Sequence[Job], deadline: float) -> Iterator[JobResult]:
        """Yield the outcomes of `jobs`; at most `JOBS_AHEAD` per worker are under way."""
        self.ready(wait=True)
        crew = [worker for worker in self.workers if worker.alive]
        arrays = to_arrays(state) if crew else {}
        for worker in crew:
            worker.send(arrays)
        owners: list[Worker | None] = []
        try:
            for index, job in enumerate(jobs):
                self._hand_out(crew, jobs, owners, index)
                try:
                    yield self._collect(owners[index], state, job, deadline)
                except TimeoutError:
                    return
        finally:
            for worker in crew:
                if worker.waiting:
                    worker.given_up = True
                    worker.stop(f"was still busy when its round ended; {_ELSEWHERE}")

    def _hand_out(
        self, crew: list[Worker], jobs: Sequence[Job], owners: list[Worker | None], index: int
    ) -> None:
        """Give jobs to the least busy workers, until each has enough ahead."""
        while len(owners) < len(jobs):
            alive = [worker for worker in crew if worker.alive and worker.waiting < JOBS_AHEAD]
            if not alive:
                break
            worker = min(alive, key=lambda candidate: candidate.waiting)
            worker.send(jobs[len(owners)])
            worker.waiting += 1
            owners.append(worker)
        if len(owners) <= index:
            owners.append(None)

    def _collect(self, owner: Worker | None, state: Tensors, job: Job, deadline: float) -> JobResult:
        if time.monotonic() > deadline:
            raise TimeoutError
        if owner is None or not owner.alive:
            return compute(self.learner, state, job)
        try:
            packed = owner.receive(min(deadline, time.monotonic() + JOB_SECONDS))
        except _Gone as gone:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            # A job that blocks a worker would block this process too, and could not be stopped here.
            stuck = isinstance(gone, _Stuck)
            return _unanswered(self.learner, job) if stuck else compute(self.learner, state, job)
        owner.waiting -= 1
        return unpack_outcome(packed)

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.stop()


def _unanswered(learner: Learner, job: Job) -> JobResult:
    """Return the outcome of a job that a worker was stuck in."""
    why = Failure(f"not computed within {JOB_SECONDS:g} s")
    if isinstance(job, EvaluateJob):
        return why
    tasks = learner.workload.tasks_per_round
    return CohortUpdate([], {}, {}, tasks, dict.fromkeys(job.clients, why))


WORTHWHILE_SECONDS = 10.0
"""Time that workers must save over the rest of a run for ``auto`` to start them."""


class Auto(Executor):
    """Starts in this process, measures, and moves to worker processes where they save time.

    Where a job is computed never changes its outcome, so timing may decide.

    Args:
        learner: The clients' side.
        rounds: About how many times `run` will be called.
    """

    def __init__(self, learner: Learner, rounds: int) -> None:
        self.learner = learner
        self.rounds = rounds
        self.pool: ProcessPool | None = None
        self._measured = 0

    def run(self, state: Tensors, jobs: Sequence[Job], deadline: float) -> Iterator[JobResult]:
        """Yield the outcomes of `jobs`, moving to workers as soon as they are ready."""
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
        # The first job includes warm-up, so its time says little.
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
    """Build the executor of a run.

    Args:
        learner: The clients' side.
        workers: 1: compute in this process; more: that many worker processes; ``auto``: decide by
            measuring. On a GPU, always this process.
        rounds: Length of the run, for ``auto``.
    """
    if learner.device.type == "cuda":
        return InProcess(learner)
    if workers == "auto":
        return Auto(learner, rounds)
    return ProcessPool(learner, workers) if workers > 1 else InProcess(learner)
