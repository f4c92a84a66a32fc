"""One MAML meta-gradient of fedmeta against those of rivals: many small tasks, and images."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.bench import rivals
from fedmeta.bench.libraries import installed
from fedmeta.bench.result import Case, Goal, Result, ratio
from fedmeta.bench.rivals import Episode, meta_gradient
from fedmeta.bench.rounds import Noise, NoiseOptions, federation
from fedmeta.bench.timing import Timing, count_flops, gemm, gemm_flops, interleave, pinned
from fedmeta.federation import Plan, Workload
from fedmeta.learning import (
    Algorithm,
    AlgorithmSetup,
    Tensors,
    build_algorithm,
    expand_state,
)
from fedmeta.tasks import Population, TaskBatch, TaskFamily, build_family, stream, torch_generator

Dtype = Literal["float32", "float64"]
OURS = "fedmeta"
RIVAL = "clone-and-loop"


@dataclass(frozen=True)
class Duel:
    """One meta-gradient that both sides can compute.

    Attributes:
        algorithm: Our side.
        state: Initial weights of both sides.
        episode: The rival's side, with the tasks of both sides.
    """

    algorithm: Algorithm
    state: Tensors
    episode: Episode

    @property
    def tasks(self) -> TaskBatch:
        """The meta-batch."""
        return self.episode.tasks

    def ours(self) -> Tensors:
        """Return our meta-gradient, averaged over the tasks, by key of the state."""
        return stacked_meta_gradient(self.algorithm, self.state, self.tasks)

    def contenders(self) -> dict[str, Callable[[], object]]:
        """Return both sides, and the installed libraries, as functions to time."""
        others = {name: partial(function, self.episode) for name, function in installed().items()}
        return {OURS: self.ours, RIVAL: partial(meta_gradient, self.episode), **others}

    def time(self, runs: int) -> dict[str, Timing]:
        """Time all contenders in turns."""
        return interleave(self.contenders(), runs)


def make_duel(
    setup: AlgorithmSetup,
    family: TaskFamily,
    tasks: int,
    module: Callable[[Tensors], nn.Module],
    dtype: Dtype = "float32",
) -> Duel:
    """Draw weights and tasks from fixed seeds, the same for both sides.

    Args:
        setup: Our learner: MAML with its inner loop, and the network.
        family: Source of the tasks.
        tasks: Size of the meta-batch.
        module: Builds the rival's network from our state.
        dtype: Of weights and tasks.
    """
    algorithm = build_algorithm(setup, family.spec)
    kind: torch.dtype = getattr(torch, dtype)
    drawn = family.sample(0, tasks, stream(0, "bench")).to(kind)
    state = {key: value.to(kind) for key, value in algorithm.init(torch_generator(0, "bench")).items()}
    loss = F.cross_entropy if algorithm.objective.labels else F.mse_loss
    episode = Episode(
        module(state),
        loss,
        float(setup.learner["inner_lr"]),
        int(setup.learner["inner_steps"]),
        drawn,
    )
    return Duel(algorithm, state, episode)


def stacked_meta_gradient(algorithm: Algorithm, state: Tensors, tasks: TaskBatch) -> Tensors:
    """Return the mean of the tasks' meta-gradients, computed in the same chunks as on the grid."""
    size = algorithm.model.chunk_tasks
    total: dict[str, Tensor] = {}
    for first in range(0, len(tasks), size):
        chunk = tasks[first : first + size]
        updates, _ = algorithm.task_updates(expand_state(state, len(chunk)), chunk)
        for key, value in updates.items():
            summed = value.sum(0)
            total[key] = total[key] + summed if key in total else summed
    return {key: value / len(tasks) for key, value in total.items()}


SINUSOID_TASKS = 25
LEARNER = {"inner_lr": 0.01, "inner_steps": 5}
WHAT = "one second-order MAML meta-gradient: MLP 40-40, 25 sinusoids, 10-shot, 5 inner steps, 1 thread"


def sinusoid_duel(compiled: bool = False, dtype: Dtype = "float32", kernels: str = "eager") -> Duel:
    """Prepare the MAML paper's sinusoid setting (Finn et al. 2017, 5.1) with five inner steps."""
    family = build_family("sinusoid", {"shots": 10, "queries": 10}, Population(1), 0)
    setup = AlgorithmSetup(
        "maml", LEARNER, "mlp", {"hidden": [40, 40]}, kernels=kernels, compile=compiled
    )
    return make_duel(setup, family, SINUSOID_TASKS, rivals.mlp, dtype)


def _measure_sinusoid(case: Case, runs: int, *, compiled: bool, bound: float) -> Result:
    with pinned(1):
        timings = sinusoid_duel(compiled).time(runs)
    ours, rival = timings.pop(OURS), timings.pop(RIVAL)
    times, spread = ratio(rival, ours)
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=ours.median,
        rival_ms=rival.median,
        rival=RIVAL,
        ratio_is="rival / ours",
        threads=1,
        runs=runs,
        goals=(Goal(f"times as fast as {RIVAL}", times, bound, "at least", spread),),
        others_ms={name: timing.median for name, timing in timings.items()},
    )


EAGER = Case("maml-sinusoid", WHAT, 20, partial(_measure_sinusoid, compiled=False, bound=12.0))
COMPILED = Case(
    "maml-sinusoid-compiled",
    f"{WHAT}, compile = true",
    20,
    partial(_measure_sinusoid, compiled=True, bound=30.0),
)


TASKS = 32
WIDTH = 64
GEMM = "gemm"


def setup(width: int = WIDTH) -> AlgorithmSetup:
    """Return the MAML paper's Omniglot learner (Finn et al. 2017, appendix A.1): one step at 0.4."""
    network = {"width": width, "pooling": "stride"}
    return AlgorithmSetup("maml", {"inner_lr": 0.4, "inner_steps": 1}, "conv4", network)


def conv4_duel(tasks: int = TASKS, width: int = WIDTH, dtype: Dtype = "float32") -> Duel:
    """Prepare 5-way 1-shot tasks with one query image per class."""
    family = Noise(NoiseOptions(), Population(1), 0)
    return make_duel(setup(width), family, tasks, rivals.conv4, dtype)


def time_workers(runs: int, cohort: int = TASKS, width: int = WIDTH) -> dict[str, Timing]:
    """Time whole rounds, one task per client, in this process and in two workers."""
    family = f"{Noise.__module__}:{Noise.__name__}"
    workload = Workload(family, {}, Population(cohort), setup(width), seed=0)
    plan = Plan(rounds=1, cohort=cohort)
    with ExitStack() as open_federations:
        rounds = {
            f"round, {workers} worker(s)": open_federations.enter_context(
                federation(workload, plan, workers)
            )
            for workers in (1, 2)
        }
        return interleave(rounds, runs)


def _measure_conv4(case: Case, runs: int) -> Result:
    with pinned(1):
        race = conv4_duel()
        timings = interleave({**race.contenders(), GEMM: gemm()}, runs)
        flops = count_flops(race.ours)
    ours, rival = timings.pop(OURS), timings.pop(RIVAL)
    peak = gemm_flops() / timings.pop(GEMM).median / 1e6
    reached = flops / ours.median / 1e6
    rounds = time_workers(runs)
    times, spread = ratio(rival, ours)
    speedup, speedup_spread = ratio(*rounds.values())
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=ours.median,
        rival_ms=rival.median,
        rival=RIVAL,
        ratio_is="rival / ours",
        threads=1,
        runs=runs,
        goals=(
            Goal(f"times as fast as {RIVAL}", times, 1.25, "at least", spread),
            Goal("round: two workers, times as fast as one", speedup, 1.5, "at least", speedup_spread),
        ),
        others_ms={name: timing.median for name, timing in (timings | rounds).items()},
        details={
            "GFLOP in matrix products": flops / 1e9,
            "GFLOP/s reached": reached,
            f"GFLOP/s of a {GEMM.upper()} on one thread": peak,
            "share of the GEMM rate": reached / peak,
        },
    )


CONV4 = Case(
    "maml-conv4",
    "one second-order MAML meta-gradient: strided Conv4-64, 32 tasks, 5-way 1-shot, 1 query a class, "
    "1 inner step, 1 thread",
    10,
    _measure_conv4,
)
