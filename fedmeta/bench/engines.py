"""Time of the same rounds on Flower's Ray engine and on the vector engine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from flwr.serverapp import Grid

from fedmeta.bench.result import Case, Goal, Result, ratio
from fedmeta.bench.rounds import Rounds, small_workload
from fedmeta.bench.timing import Timing, interleave
from fedmeta.errors import RunError
from fedmeta.federation import Learner, Plan, VectorGrid, Workload
from fedmeta.federation.cohort import wait_for_nodes
from fedmeta.federation.engines.client_app import build_side
from fedmeta.federation.engines.ray import RayOptions
from fedmeta.federation.engines.vector.jobs import InProcess, available_cores
from fedmeta.learning import Tensors, keep_freed_memory
from fedmeta.learning.device import one_thread

ROUNDS = 20
CLIENTS = 100
VECTOR, RAY = "vector, one process", "Ray"
AGREE = 1e-5
"""Largest difference allowed between the final states' tensors, relative to a tensor's largest value."""


@dataclass(frozen=True)
class Race:
    """The same rounds on both engines, in turns.

    Attributes:
        rounds: Milliseconds per round, by engine; a sample is all rounds of the plan.
        start_seconds: Ray's startup time until its nodes are connected; not part of the samples.
    """

    rounds: Mapping[str, Timing]
    start_seconds: float


def race(workload: Workload, plan: Plan, runs: int, workers: int) -> Race:
    """Time both engines on all rounds of a plan, repeatedly and in turns.

    Args:
        workload: The clients' work.
        plan: The server's plan.
        runs: Timed repetitions per engine, after two that are not counted.
        workers: Ray's workers; the vector engine uses only this process.

    Raises:
        UsageError: If Ray is not installed.
        RunError: If a reply was not admitted, or the engines' results differ.
    """
    from fedmeta.federation.engines.ray.engine import open_ray

    keep_freed_memory()
    learner = Learner.build(workload)
    ends: dict[str, Tensors] = {}

    def play(name: str, grid: Grid) -> None:
        rounds = Rounds(learner, plan, grid)
        for _ in range(plan.rounds):
            rounds()
        ends[name] = rounds.state

    began = time.perf_counter()
    build = partial(build_side, workload, ())
    with one_thread(), open_ray(build, learner, RayOptions(), workers) as grid:
        wait_for_nodes(grid, len(workload.population), plan.timeout)
        started = time.perf_counter() - began
        grids = {VECTOR: VectorGrid(learner, InProcess(learner)), RAY: grid}
        players = {name: partial(play, name, grid) for name, grid in grids.items()}
        found = interleave(players, runs, sample_ms=0.0)
    require_same(ends[VECTOR], ends[RAY])
    each = {name: Timing(tuple(ms / plan.rounds for ms in one.samples)) for name, one in found.items()}
    return Race(each, started)


def require_same(ours: Tensors, theirs: Tensors) -> None:
    """Check that two states agree.

    Raises:
        RunError: If a tensor differs by more than `AGREE` times its largest value.
    """
    for key, value in ours.items():
        apart = float((theirs[key] - value).abs().max() / value.abs().max())
        if not apart <= AGREE:
            raise RunError(f"bench: '{key}' differs between the engines by {apart:.3g} of its largest")


def _measure(case: Case, runs: int) -> Result:
    workers = available_cores()
    seen = race(small_workload(CLIENTS), Plan(rounds=ROUNDS, cohort=CLIENTS), runs, workers)
    ours, rival = seen.rounds[VECTOR], seen.rounds[RAY]
    times, spread = ratio(rival, ours)
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=ours.median,
        rival_ms=rival.median,
        rival=RAY,
        ratio_is="rival / ours",
        threads=1,
        runs=runs,
        goals=(Goal(f"times as fast as {RAY}", times, 20.0, "at least", spread),),
        details={
            "workers of Ray": workers,
            "s until Ray was ready, not counted": seen.start_seconds,
        },
    )


CASE = Case(
    "engines",
    "the same 20 rounds of 100 clients, MAML on sinusoids, in this process and on Flower's simulation "
    "engine with a worker a core (both: one round)",
    5,
    _measure,
)
