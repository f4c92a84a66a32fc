"""MAML on images: arithmetic decides, and how well matrix products and processes are used."""

from contextlib import ExitStack

from fedmeta.bench import rivals
from fedmeta.bench.meta_gradients import OURS, RIVAL, Dtype, Duel, make_duel
from fedmeta.bench.result import Case, Goal, Result, ratio
from fedmeta.bench.rounds import Noise, NoiseOptions, federation
from fedmeta.bench.timing import Timing, count_flops, gemm, gemm_flops, interleave, pinned
from fedmeta.federation import Plan, Workload
from fedmeta.learning import LearnerSetup
from fedmeta.tasks import Population

TASKS = 32
WIDTH = 64
GEMM = "gemm"


def setup(width: int = WIDTH) -> LearnerSetup:
    """Return the MAML paper's Omniglot learner (Finn et al. 2017, appendix A.1): one step at 0.4."""
    network = {"width": width, "pooling": "stride"}
    return LearnerSetup("maml", {"inner_lr": 0.4, "inner_steps": 1}, "conv4", network)


def duel(tasks: int = TASKS, width: int = WIDTH, dtype: Dtype = "float32") -> Duel:
    """Prepare 5-way 1-shot tasks with one query image a class."""
    family = Noise(NoiseOptions(), Population(1), 0)
    return make_duel(setup(width), family, tasks, rivals.conv4, dtype)


def time_workers(runs: int, cohort: int = TASKS, width: int = WIDTH) -> dict[str, Timing]:
    """Time whole rounds, one task a client, computed in this process and in two workers."""
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


def _measure(case: Case, runs: int) -> Result:
    with pinned(1):
        race = duel()
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


CASE = Case(
    "maml-conv4",
    "one second-order MAML meta-gradient: strided Conv4-64, 32 tasks, 5-way 1-shot, 1 query a class, "
    "1 inner step, 1 thread",
    10,
    _measure,
)
