"""MAML on sinusoids: many small tasks, where what a task costs beside its arithmetic decides."""

from functools import partial

from fedmeta.bench import rivals
from fedmeta.bench.meta_gradients import OURS, RIVAL, Dtype, Duel, make_duel
from fedmeta.bench.result import Case, Goal, Result, ratio
from fedmeta.bench.timing import pinned
from fedmeta.learning import LearnerSetup
from fedmeta.tasks import Population, build_family

TASKS = 25
LEARNER = {"inner_lr": 0.01, "inner_steps": 5}
WHAT = "one second-order MAML meta-gradient: MLP 40-40, 25 sinusoids, 10-shot, 5 inner steps, 1 thread"


def duel(compiled: bool = False, dtype: Dtype = "float32") -> Duel:
    """Prepare the MAML paper's sinusoid setting (Finn et al. 2017, 5.1) with five inner steps."""
    family = build_family("sinusoid", {"shots": 10, "queries": 10}, Population(1), 0)
    setup = LearnerSetup("maml", LEARNER, "mlp", {"hidden": [40, 40]}, compile=compiled)
    return make_duel(setup, family, TASKS, rivals.mlp, dtype)


def _measure(case: Case, runs: int, *, compiled: bool, bound: float) -> Result:
    with pinned(1):
        timings = duel(compiled).time(runs)
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


EAGER = Case("maml-sinusoid", WHAT, 20, partial(_measure, compiled=False, bound=12.0))
COMPILED = Case(
    "maml-sinusoid-compiled",
    f"{WHAT}, compile = true",
    20,
    partial(_measure, compiled=True, bound=30.0),
)
