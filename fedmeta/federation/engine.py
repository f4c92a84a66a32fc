"""Runs and evaluates a workload in this machine: Flower's ServerApp over a VectorGrid."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flwr.app import Context
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid, ServerApp

from fedmeta.errors import LearnersFailedError, UsageError
from fedmeta.federation.engines.vector.execution import Executor, Workers, one_thread
from fedmeta.federation.engines.vector.grid import VectorGrid
from fedmeta.federation.engines.vector.pool import build_executor
from fedmeta.federation.evaluation import EvaluationSums, merge
from fedmeta.federation.flower import as_server, new_context
from fedmeta.federation.learner import Learner
from fedmeta.federation.records import Snapshot, StepResult
from fedmeta.federation.round import Plan
from fedmeta.federation.sampling import by_client
from fedmeta.federation.scoring import Rewards
from fedmeta.federation.signing import Signatures
from fedmeta.federation.strategy import MetaStrategy, Observer
from fedmeta.federation.workload import Workload
from fedmeta.learning import Tensors, keep_freed_memory
from fedmeta.tasks import Split

log = logging.getLogger(__name__)

GridBuilder = Callable[
    [Learner, Executor, Mapping[int, Sequence[Mod]] | None, Signatures | None], VectorGrid
]
"""Makes a grid of a learner, what computes it, the clients' mods, and how they sign."""


def build_server_app(strategy: MetaStrategy) -> ServerApp:
    """Build the ServerApp that runs `strategy` on whatever grid Flower hands it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's signature)
        plan = strategy.plan
        strategy.start(grid, strategy.arrays, num_rounds=plan.rounds, timeout=plan.timeout)

    return app


@dataclass(frozen=True)
class Federation:
    """A server's way to its clients: the same app runs on whatever engine is behind the grid.

    Attributes:
        learner: Says what states and replies look like; its clients' data is not touched.
        grid: Leads to the clients.
    """

    learner: Learner
    grid: Grid

    def train(
        self,
        plan: Plan,
        observer: Observer,
        start: Snapshot | None = None,
        rewards: Rewards | None = None,
    ) -> Snapshot:
        """Run the rounds that are left; see `simulate`."""
        strategy = MetaStrategy(self.learner, plan, observer, start, rewards)
        clients = len(self.learner.workload.population)
        build_server_app(strategy)(self.grid, new_context(1, -1, clients))
        return strategy.snapshot(max(plan.rounds, strategy.first_round - 1))

    def evaluate(self, state: Tensors, split: Split, timeout: float) -> dict[int, EvaluationSums]:
        """Evaluate a state on each client of a split.

        Args:
            state: The meta-learned state.
            split: Which clients.
            timeout: Seconds after which nobody else is waited for.

        Raises:
            LearnersFailedError: If no client of the split could be evaluated.
        """
        clients = len(self.learner.workload.population.clients(split))
        if not clients:
            return {}
        plan = Plan(rounds=1, cohort=1, timeout=timeout)
        strategy = MetaStrategy(self.learner, plan, lambda *_: None)
        addresses = strategy.connect(self.grid)
        asked = strategy.ask_split(split, 0, strategy.codec.encode(state))
        replies = self.grid.send_and_receive(asked, timeout=timeout)
        found = dict(strategy.evaluation_gate.admitted(0, by_client(replies, addresses)))
        if not found:
            why = strategy.evaluation_gate.problem or f"no reply within {timeout:g} s"
            raise LearnersFailedError(f"none of the {clients} {split} clients could be evaluated: {why}")
        if len(found) < clients:
            log.warning("only %d of the %d %s clients could be evaluated", len(found), clients, split)
        return found


def simulate(  # noqa: PLR0913 (all but two are optional)
    workload: Workload,
    plan: Plan,
    *,
    observer: Observer,
    start: Snapshot | None = None,
    workers: Workers = 1,
    mods: Mapping[int, Sequence[Mod]] | None = None,
    rewards: Rewards | None = None,
    build_grid: GridBuilder = VectorGrid,
) -> Snapshot:
    """Train federated, all clients in this machine.

    The result is a function of `workload` and `plan`: neither the number of workers nor a restart from
    one of its snapshots changes a bit of it.

    Args:
        workload: What clients do.
        plan: What the server does.
        observer: Called after each round.
        start: Snapshot of an earlier run to go on from.
        workers: Processes that compute; ``auto`` measures first.
        mods: Flower mods by client, to play faulty ones for instance.
        rewards: How clients are known and paid; None: they are neither.
        build_grid: Makes the grid; see `fedmeta.federation.faults` for one on which things go wrong.

    Raises:
        UsageError: If the parts do not fit each other or data cannot be read.
        DivergedError: If the state, or every update to it, turned non-finite.
    """
    signatures = rewards.signatures if rewards else None
    if signatures is not None and not isinstance(signatures, Signatures):
        raise UsageError("the clients of this process have no keys: those that sign are on nodes")
    with _session(workload, workers, plan.rounds) as (learner, executor):
        federation = Federation(learner, build_grid(learner, executor, mods, signatures))
        return federation.train(plan, observer, start, rewards)


def evaluate(
    workload: Workload, state: Tensors, split: Split, workers: Workers = 1
) -> tuple[StepResult, ...]:
    """Evaluate a state on the clients of one split: means over all their tasks, with intervals.

    Returns:
        One result per adaptation step; none if the split has no clients.

    Raises:
        LearnersFailedError: If no client of the split could be evaluated.
    """
    found = evaluate_clients(workload, state, split, workers)
    return merge(workload.evaluation_steps, found.values(), len(workload.population.clients(split)))


def evaluate_clients(
    workload: Workload, state: Tensors, split: Split, workers: Workers = 1, each: float = Plan.timeout
) -> dict[int, EvaluationSums]:
    """Evaluate a state on each client of a split, by the messages that a real federation would use.

    Args:
        workload: What clients do.
        state: The meta-learned state.
        split: Which clients.
        workers: Processes that compute; ``auto`` measures first. One that is stuck is done without.
        each: Seconds for each client; once all of theirs together have passed, the rest are left out.

    Returns:
        Each client's sums by its id; nothing if the split has no clients.

    Raises:
        LearnersFailedError: If no client of the split could be evaluated.
    """
    clients = len(workload.population.clients(split))
    if not clients:
        return {}
    with _session(workload, workers, 1) as (learner, executor):
        return Federation(learner, VectorGrid(learner, executor)).evaluate(state, split, each * clients)


@contextmanager
def _session(workload: Workload, workers: Workers, rounds: int) -> Iterator[tuple[Learner, Executor]]:
    """Open the clients' side and what computes it; workers end with the block, however it ends."""
    keep_freed_memory()
    with one_thread(), as_server():
        learner = workload.build()
        with build_executor(learner, workers, rounds) as executor:
            yield learner, executor
