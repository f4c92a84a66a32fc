"""Runs a comparison's jobs in worker processes; a worker that dies only fails its run."""

import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType

from fedmeta.comparison.worker import Message, Order
from fedmeta.federation.engines.vector.jobs import available_cores, launch

JOB_BYTES = 1.5 * 2**30
"""Memory that a run may need; small models need far less."""
SILENT_SECONDS = 3600.0
"""How long a run may be silent between rounds: while it loads its data, or is tested."""
STOP_SECONDS = 30.0
"""How long a stopped run may take to close its folder."""

_ENTRY = "from fedmeta.comparison.worker import main; main()"


def default_jobs() -> int:
    """Return how many runs fit this machine's cores and free memory at once."""
    return max(1, int(min(available_cores(), free_bytes() / JOB_BYTES)))


def free_bytes() -> float:
    """Return the available memory in bytes, within the machine and this process's control group."""
    return min(_free_on_machine(), _free_in_group())


def _free_on_machine() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    # Not every system says; then only the number of cores counts.
    return float("inf")


def _free_in_group() -> float:
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        limit = float((group / "memory.max").read_text(encoding="ascii"))
        return limit - float((group / "memory.current").read_text(encoding="ascii"))
    return float("inf")


class _Worker:
    """One worker process, which only this process starts and stops."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as output:
            self.process, self.connection = launch(_ENTRY, output)

    def give(self, order: Order) -> None:
        """Send a run to the worker; a dead worker is noticed in `receive`."""
        try:
            self.connection.send(order)
        except ConnectionError:
            pass  # `receive` says how it ended.
        except OSError:
            # A worker that received half an order cannot do it.
            self.process.kill()

    def receive(self) -> Message:
        """Return the worker's next message; if it died, that its run failed."""
        try:
            message: Message = self.connection.recv()
            return message
        except (EOFError, ConnectionError):
            return "failed", f"its worker process {self._end()}"
        except OSError:
            return self.give_up("stalled in the middle of a message")

    def give_up(self, why: str) -> Message:
        """Stop the worker; return that its run failed."""
        self.stop()
        return "failed", f"its worker process {why}, and was stopped"

    def _end(self) -> str:
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            return "closed its connection without ending, and was stopped"
        self.connection.close()
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def expect(self, seconds: float) -> None:
        """Set how long it may be silent from now on."""
        self.patience = seconds
        self.deadline = time.monotonic() + seconds

    @property
    def alive(self) -> bool:
        """Whether it has not been found to have ended."""
        return not self.connection.closed

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def _heard(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, Message]]:
    """Wait for a message or a timeout of some worker; yield workers with their messages."""
    by_connection = {worker.connection: worker for worker in workers}
    first = min(worker.deadline for worker in workers)
    for connection in wait(list(by_connection), max(0.0, first - time.monotonic())):
        worker = by_connection.pop(connection)  # type: ignore[call-overload]
        yield worker, worker.receive()
    for worker in by_connection.values():
        if time.monotonic() >= worker.deadline:
            yield worker, worker.give_up(f"was silent for {worker.patience:g} s")


def silence(order: Order) -> float:
    """Return how many seconds a run may be silent, which covers a round and its evaluation."""
    return SILENT_SECONDS + 2.0 * float(order.config["timeout"])


class Pool:
    """Does runs in worker processes.

    Args:
        size: Runs at once.
        log: File to which the workers' output is appended.
    """

    def __init__(self, size: int, log: Path) -> None:
        self.size = size
        self.log = log
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def run(self, orders: Sequence[Order]) -> Iterator[tuple[int, Message | None]]:
        """Do the runs, started in their order, and yield their messages.

        Yields:
            The index of a run in `orders`, with None when it is given to a worker, then with each of the
            worker's messages, the last of which is ``done`` or ``failed``.
        """
        waiting = list(range(len(orders)))[::-1]
        at_work: dict[_Worker, int] = {}
        while waiting or at_work:
            while waiting and len(at_work) < self.size:
                worker, job = self._idle(at_work), waiting.pop()
                at_work[worker] = job
                worker.give(orders[job])
                worker.expect(silence(orders[job]))
                yield job, None
            for worker, message in _heard(list(at_work)):
                yield at_work[worker], message
                if message[0] in ("done", "failed"):
                    del at_work[worker]
                else:
                    worker.expect(silence(orders[at_work[worker]]))

    def _idle(self, at_work: Collection[_Worker]) -> _Worker:
        self._workers = [worker for worker in self._workers if worker.alive]
        for worker in self._workers:
            if worker not in at_work:
                return worker
        self._workers.append(_Worker(self.log))
        return self._workers[-1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        # A second Ctrl-C ends the wait.
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            for worker in self._workers:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        for worker in self._workers:
            worker.stop()
        self._workers = []
