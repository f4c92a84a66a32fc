"""Means and confidence intervals over seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedmeta.comparison.results import Measured, Runs, TrackedTest
from fedmeta.federation import clustered_half_width


@dataclass(frozen=True)
class Estimate:
    """A mean over independent repetitions.

    Attributes:
        mean: Mean over repetitions with a value; None if there is none, or one is not finite.
        ci95: Half the 95% confidence interval; None with fewer than two values.
        values: Value of each repetition; None where it is missing or not finite.
    """

    mean: float | None
    ci95: float | None
    values: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        return {"mean": self.mean, "ci95": self.ci95, "values": list(self.values)}


def estimate(values: Sequence[float | None]) -> Estimate:
    """Return the mean and its 95% interval by Student's t, ``t_{0.975, n-1} s / sqrt(n)``.

    Seeds are the independent repetitions: a run's tasks and clients share one trained model, so their
    spread says nothing about training again.

    Args:
        values: Value of each seed; None if its run is not finished. If one is not finite, such as the
            loss of a run with diverged tasks, there is no mean.
    """
    known = [value for value in values if value is not None]
    finite = tuple(None if value is None or not math.isfinite(value) else value for value in values)
    if not known or len(known) > sum(value is not None for value in finite):
        return Estimate(None, None, finite)
    mean = math.fsum(known) / len(known)
    half = clustered_half_width([(value - mean) / len(known) for value in known])
    return Estimate(mean, half, finite)


def paired(values: Sequence[float | None], reference: Sequence[float | None]) -> Estimate:
    """Return the mean difference ``values - reference`` paired by seed, with its 95% interval.

    Effects of a seed on both, such as easier test tasks, cancel in the difference.
    """
    return estimate(
        [
            None if one is None or other is None else one - other
            for one, other in zip(values, reference, strict=True)
        ]
    )


@dataclass(frozen=True)
class Target:
    """The target of a comparison.

    Attributes:
        value: Target value of the measure.
        step: Adaptation steps after which it is measured.
        why: Its origin.
        higher_is_better: Whether higher values are better.
    """

    value: float
    step: int
    why: str
    higher_is_better: bool

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``compare.json``."""
        return {"value": self.value, "step": self.step, "why": self.why}

    def reached(self, value: float) -> bool:
        """Return whether a value reaches the target."""
        if not math.isfinite(value):
            return False
        return value >= self.value if self.higher_is_better else value <= self.value


def final(runs: Runs, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return the final test by adaptation step, over seeds; with one seed, the interval is over clients.

    ``clients_ci95``, ``tasks_ci95`` and ``diverged`` are lists by seed.
    """
    found = []
    for step in steps:
        mean = estimate(_at(runs, step))
        over_clients = [estimate(run.of_clients(step)).ci95 if run else None for run in runs]
        if len(runs) == 1:
            mean = replace(mean, ci95=over_clients[0])
        beside = {
            "clients_ci95": over_clients,
            "tasks_ci95": [run.final[step].tasks_ci95 if run else None for run in runs],
            "diverged": [run.final[step].diverged if run else None for run in runs],
        }
        found.append({"step": step, **mean.to_json(), **beside})
    return found


def difference(runs: Runs, reference: Runs, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return the final test minus that of a reference arm, by adaptation step, paired by seed.

    With one seed, the interval is over its test clients, paired by client.
    """
    return [{"step": step, **_difference(runs, reference, step).to_json()} for step in steps]


def _difference(runs: Runs, reference: Runs, step: int) -> Estimate:
    over_seeds = paired(_at(runs, step), _at(reference, step))
    own, other = runs[0], reference[0]
    if len(runs) > 1 or own is None or other is None or own.clients.keys() != other.clients.keys():
        return over_seeds
    over_clients = paired(own.of_clients(step), other.of_clients(step))
    return replace(over_seeds, ci95=over_clients.ci95)


def totals(runs: Runs) -> dict[str, Any]:
    """Return the costs of the runs."""
    return {
        "wall_seconds": estimate(_of(runs, lambda run: run.wall_seconds)).to_json(),
        "bytes_down": estimate(_of(runs, lambda run: run.bytes_down)).mean,
        "bytes_up": estimate(_of(runs, lambda run: run.bytes_up)).mean,
    }


def to_target(runs: Runs, target: Target) -> dict[str, Any]:
    """Return the rounds and bytes until each run first reached the target."""
    first = [_first(run, target) for run in runs]
    return {
        "reached": sum(one is not None for one in first),
        "rounds": estimate([one.round if one else None for one in first]).to_json(),
        "bytes": estimate([one.bytes if one else None for one in first]).to_json(),
    }


def _first(run: Measured | None, target: Target) -> TrackedTest | None:
    tracked = run.tracked if run else ()
    return next((one for one in tracked if target.reached(one.values[target.step])), None)


def curve(runs: Runs, step: int) -> list[dict[str, Any]]:
    """Return the evaluations during training at an adaptation step, over finished seeds; see `final`."""
    finished = [run.tracked for run in runs if run]
    points = []
    for tracked in zip(*finished, strict=False):
        values = estimate([one.values[step] for one in tracked])
        points.append(
            {
                "round": tracked[0].round,
                "tasks": estimate([one.tasks for one in tracked]).mean,
                "bytes": estimate([one.bytes for one in tracked]).mean,
                "mean": values.mean,
                "ci95": values.ci95 if len(runs) > 1 else tracked[0].ci95[step],
            }
        )
    return points


def mean_tasks(runs: Runs) -> float | None:
    """Return the mean number of training tasks of a run, over seeds."""
    return estimate(_of(runs, lambda run: run.tasks)).mean


def mean_final(runs: Runs, step: int) -> float | None:
    """Return the mean final measure at an adaptation step, over seeds."""
    return estimate(_at(runs, step)).mean


def _at(runs: Runs, step: int) -> list[float | None]:
    return [None if run is None else run.final[step].value for run in runs]


def _of(runs: Runs, value: Callable[[Measured], float]) -> list[float | None]:
    return [None if run is None else value(run) for run in runs]
