"""Native kernels against autograd and loops over tasks, for every model and setting."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.bench import jax_rival, rivals
from fedmeta.bench.libraries import TORCH_FUNC, by_torch_func, installed
from fedmeta.bench.maml import OURS, RIVAL, sinusoid_duel, stacked_meta_gradient
from fedmeta.bench.result import Case, Goal, Result, ratio
from fedmeta.bench.rivals import Episode, MetaGradient
from fedmeta.bench.timing import Timing, count_flops, gemm, gemm_flops, interleave, pinned
from fedmeta.learning import AlgorithmSetup, Tensors, build_algorithm
from fedmeta.tasks import TaskBatch, TaskSpec, torch_generator

KERNELS, AUTOGRAD, GEMM = "fedmeta's kernels", "fedmeta's autograd", "gemm"
JAX = "JAX"
TASKS = 8
IMAGES = TaskSpec("classification", (28, 28), 5)
TEXTS = TaskSpec("classification", (80,), 65, vocabulary=65)


@dataclass(frozen=True)
class Setting:
    """One gradient to compute, averaged over tasks.

    Attributes:
        algorithm: Name of the algorithm.
        model: Name of the model.
        network: Its options.
        spec: Shape of the tasks.
        queries: Query examples of a task; support examples are `support`.
        module: Builds the loop's network from our state.
        loop: The usual way: a loop over tasks.
        bound: How many times as fast as the loop the kernels should be.
    """

    algorithm: str
    model: str
    network: Mapping[str, Any]
    spec: TaskSpec
    queries: int
    module: Callable[[Tensors], nn.Module]
    bound: float
    loop: MetaGradient = rivals.meta_gradient
    support: int = 5
    learner: Mapping[str, Any] = field(default_factory=dict)

    def contenders(self) -> dict[str, Callable[[], object]]:
        """Return the kernels, autograd and the loop, as functions to time."""
        setup = AlgorithmSetup(self.algorithm, self.learner, self.model, self.network)
        eager = build_algorithm(setup, self.spec)
        native = build_algorithm(replace(setup, kernels="native"), self.spec)
        state, tasks = eager.init(torch_generator(0, "bench")), self.tasks()
        rate = float(self.learner.get("inner_lr", 0.0))
        steps, second = int(self.learner.get("inner_steps", 0)), eager.second_order
        episode = Episode(self.module(state), F.cross_entropy, rate, steps, tasks, second)
        return {
            KERNELS: partial(stacked_meta_gradient, native, state, tasks),
            AUTOGRAD: partial(stacked_meta_gradient, eager, state, tasks),
            RIVAL: partial(self.loop, episode),
            **{name: partial(function, episode) for name, function in self._libraries(second).items()},
        }

    def _libraries(self, second_order: bool) -> dict[str, MetaGradient]:
        """Return the libraries that compute this gradient: not prototypes, nor PyTorch's LSTM."""
        if not self.learner or self.model == "lstm":
            return {}
        return installed() if second_order else {TORCH_FUNC: by_torch_func}

    def tasks(self) -> TaskBatch:
        """Draw tasks of noise, with balanced labels or random characters."""
        generator = torch_generator(0, "bench", "tasks")

        def half(rows: int) -> dict[str, Tensor]:
            shape = (TASKS, rows, *self.spec.input_shape)
            if self.spec.vocabulary:
                x, y = (torch.randint(self.spec.vocabulary, shape, generator=generator) for _ in "xy")
                return {"x": x, "y": y}
            labels = (torch.arange(rows) % self.spec.outputs).repeat(TASKS, 1)
            return {"x": torch.randn(shape, generator=generator), "y": labels}

        return TaskBatch(half(self.support), half(self.queries))


def settings() -> dict[str, Setting]:
    """Return the settings by name: the usual few-shot ones of Conv4, and the LSTM's."""
    step = {"inner_lr": 0.4, "inner_steps": 1}
    found = {}
    for pooling in ("stride", "max"):
        network, module = {"pooling": pooling}, partial(rivals.conv4, pooled=pooling == "max")
        for queries in (1, 15):
            for algorithm in ("maml", "fomaml", "protonet"):
                one = Setting(
                    algorithm, "conv4", network, IMAGES, 5 * queries, module, 2.5, learner=step
                )
                if algorithm == "protonet":
                    one = replace(one, loop=rivals.prototype_gradient, learner={}, bound=1.5)
                found[f"conv4, {pooling}, {queries} a class, {algorithm}"] = one
    text = Setting("maml", "lstm", {}, TEXTS, 10, rivals.Characters, 4.0, support=10, learner=step)
    return found | {"lstm, maml": replace(text, loop=rivals.functional_gradient)}


def _race_on_sinusoids(runs: int) -> dict[str, Timing]:
    """Time kernels, autograd, the loop and the installed libraries in turns."""
    duel, native = sinusoid_duel(), sinusoid_duel(kernels="native")
    contenders = {KERNELS: native.ours, **duel.contenders()}
    contenders[AUTOGRAD] = contenders.pop(OURS)
    if not jax_rival.is_installed():
        return interleave(contenders, runs)
    with jax_rival.jax_rival(duel.episode) as jax:
        timings = interleave({**contenders, JAX: jax}, runs)
    # Each call of the process is several meta-gradients.
    timings[JAX] = Timing(tuple(sample / jax_rival.CALLS for sample in timings[JAX].samples))
    return timings


def _best_rival(timings: Mapping[str, Timing]) -> str:
    """Return the name of the fastest contender that is not fedmeta's."""
    return min(timings.keys() - {KERNELS, AUTOGRAD}, key=lambda name: timings[name].median)


def _measure(case: Case, runs: int) -> Result:
    details: dict[str, float] = {}
    with pinned(1):
        sinusoid = _race_on_sinusoids(4 * runs)
        goals = [_goal("sinusoid", sinusoid, RIVAL, 60.0)]
        if JAX in sinusoid:
            goals.append(_goal("sinusoid", sinusoid, JAX, 1.8))
        for name, setting in settings().items():
            timings = interleave(setting.contenders(), runs)
            goals.append(_goal(name, timings, _best_rival(timings), setting.bound))
            details[f"{name}: ms"] = timings[KERNELS].median
            for other in timings.keys() - {KERNELS}:
                times, _ = ratio(timings[other], timings[KERNELS])
                details[f"{name}: times as fast as {other}"] = times
        details["share of the GEMM rate, strided Conv4, 15 a class, MAML"] = _share_of_gemm(runs)
    others = {name: timing.median for name, timing in sinusoid.items() if name not in (KERNELS, RIVAL)}
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=sinusoid[KERNELS].median,
        rival_ms=sinusoid[RIVAL].median,
        rival=RIVAL,
        ratio_is="rival / ours",
        threads=1,
        runs=runs,
        goals=tuple(goals),
        others_ms=others,
        details=details,
    )


def _goal(what: str, timings: Mapping[str, Timing], rival: str, bound: float) -> Goal:
    times, spread = ratio(timings[rival], timings[KERNELS])
    return Goal(f"{what}: times as fast as {rival}", times, bound, "at least", spread)


def _share_of_gemm(runs: int) -> float:
    """Return the rate of the kernels' matrix products over that of one large product."""
    contenders = settings()["conv4, stride, 15 a class, maml"].contenders()
    timings = interleave({KERNELS: contenders[KERNELS], GEMM: gemm()}, runs)
    rate = count_flops(contenders[AUTOGRAD]) / timings[KERNELS].median
    return rate / (gemm_flops() / timings[GEMM].median)


CASE = Case(
    "kernels",
    "gradients by native kernels: MAML on sinusoids (25 tasks); MAML, FOMAML and prototypes with "
    "Conv4-64, 5-way 1-shot, and MAML with an LSTM (8 tasks each); 1 thread",
    5,
    _measure,
)
