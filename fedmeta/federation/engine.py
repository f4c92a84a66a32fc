"""Runs and evaluates a workload in this machine: Flower's ServerApp over a VectorGrid."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import Context
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid, ServerApp

from fedmeta.errors import RunError
from fedmeta.federation.evaluation import merge
from fedmeta.federation.flower import as_server, new_context
from fedmeta.federation.records import Snapshot, StepResult
from fedmeta.federation.server.nodes import by_client
from fedmeta.federation.server.plan import Plan
from fedmeta.federation.server.scoring import Rewards
from fedmeta.federation.server.strategy import MetaStrategy, Observer
from fedmeta.federation.vector.auto import build_executor
from fedmeta.federation.vector.execution import Executor, Workers, one_thread
from fedmeta.federation.vector.grid import VectorGrid
from fedmeta.federation.workload import Learner, Workload
from fedmeta.learning import Tensors, keep_freed_memory
from fedmeta.tasks import Split


def build_server_app(strategy: MetaStrategy) -> ServerApp:
    """Build the ServerApp that runs `strategy` on whatever grid Flower hands it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's signature)
        plan = strategy.plan
        strategy.start(grid, strategy.arrays, num_rounds=plan.rounds, timeout=plan.timeout)

    return app


def simulate(  # noqa: PLR0913 (all but two are optional)
    workload: Workload,
    plan: Plan,
    *,
    observer: Observer,
    start: Snapshot | None = None,
    workers: Workers = 1,
    mods: Mapping[int, Sequence[Mod]] | None = None,
    rewards: Rewards | None = None,
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

    Raises:
        UsageError: If the parts do not fit each other or data cannot be read.
        DivergedError: If the state, or every update to it, turned non-finite.
    """
    signatures = rewards.signatures if rewards else None
    with _session(workload, workers, plan.rounds) as (learner, executor):
        grid = VectorGrid(learner, executor, mods, signatures)
        strategy = MetaStrategy(learner, plan, observer, start, rewards)
        build_server_app(strategy)(grid, new_context(1, -1, len(workload.population)))
        return strategy.snapshot(max(plan.rounds, strategy.first_round - 1))


def evaluate(
    workload: Workload, state: Tensors, split: Split, workers: Workers = 1
) -> tuple[StepResult, ...]:
    """Evaluate a state on the clients of one split, by the messages that a real federation would use.

    Args:
        workload: What clients do.
        state: The meta-learned state.
        split: Which clients.
        workers: Processes that compute; ``auto`` measures first. One that is stuck is done without.

    Returns:
        One result per adaptation step; none if the split has no clients.

    Raises:
        RunError: If no client of the split could be evaluated.
    """
    clients = len(workload.population.clients(split))
    if not clients:
        return ()
    with _session(workload, workers, 1) as (learner, executor):
        grid = VectorGrid(learner, executor)
        strategy = MetaStrategy(learner, Plan(rounds=1, cohort=1), lambda *_: None)
        strategy.connect(grid)
        asked = strategy.ask_split(split, 0, strategy.codec.encode(state))
        replies = by_client(grid.send_and_receive(asked), grid)
        results = merge(workload.evaluation_steps, strategy.evaluation_gate.admitted(0, replies))
    if not results:
        raise RunError(f"none of the {clients} {split} clients could be evaluated")
    return results


@contextmanager
def _session(workload: Workload, workers: Workers, rounds: int) -> Iterator[tuple[Learner, Executor]]:
    """Open the clients' side and what computes it; workers end with the block, however it ends."""
    keep_freed_memory()
    with one_thread(), as_server():
        learner = workload.build()
        with build_executor(learner, workers, rounds) as executor:
            yield learner, executor
