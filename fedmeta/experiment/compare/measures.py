"""What a finished run says for a comparison, and what several seeds of an arm come to."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from fedmeta.experiment.compare.statistics import estimate, paired
from fedmeta.experiment.folder import RunFolder

Measure = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Look:
    """The test clients in the middle of a run.

    Attributes:
        round: After which round.
        tasks: Training tasks until then.
        bytes: Sent until then, down and up.
        values: The measure by adaptation step.
    """

    round: int
    tasks: int
    bytes: int
    values: Mapping[int, float | None]


@dataclass(frozen=True)
class Measured:
    """A finished run in numbers.

    Attributes:
        final: The measure by adaptation step.
        looks: Along the run.
        wall_seconds: Time spent.
        tasks: Training tasks that entered the model.
        bytes_down: Bytes to clients.
        bytes_up: Bytes from them.
    """

    final: Mapping[int, float | None]
    looks: tuple[Look, ...]
    wall_seconds: float
    tasks: int
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        value: Of the measure.
        step: Adaptation steps that it is measured after.
        why: Where it comes from.
    """

    value: float
    step: int
    why: str

    def reached(self, value: float | None, measure: Measure) -> bool:
        """Return whether a value is at the target or beyond."""
        if value is None:
            return False
        return value >= self.value if measure == "accuracy" else value <= self.value


@lru_cache(maxsize=1024)
def read(path: Path, measure: Measure) -> Measured:
    """Read the numbers of a finished run; its files do not change any more.

    Raises:
        UsageError: If a file is damaged.
    """
    folder = RunFolder(path)
    info, rows = folder.info, folder.metrics()
    tasks = list(accumulate(row["tasks"] for row in rows))
    sent = list(accumulate(row["bytes_down"] + row["bytes_up"] for row in rows))
    final = _by_step(info["final"], measure)
    looks = tuple(
        Look(row["round"], tasks[i], sent[i], _by_step(row["test"], measure))
        for i, row in enumerate(rows)
        if row["test"]
    )
    return Measured(
        final=final,
        # Without rounds the final test is what can be seen before any.
        looks=looks if rows else (Look(0, 0, 0, final),),
        wall_seconds=info["wall_seconds"],
        tasks=sum(row["tasks"] for row in rows),
        bytes_down=sum(row["bytes_down"] for row in rows),
        bytes_up=sum(row["bytes_up"] for row in rows),
    )


def _by_step(steps: Sequence[Mapping[str, Any]], measure: Measure) -> dict[int, float | None]:
    # A model that came near to diverging may say NaN, which no mean survives.
    return {s["step"]: s[measure] if math.isfinite(s[measure]) else None for s in steps}


Runs = Sequence[Measured | None]
"""An arm's runs by seed; None for one that is not finished."""


def final(runs: Runs, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return the final test by adaptation step, over seeds."""
    return [{"step": step, **estimate(_at(runs, step)).to_json()} for step in steps]


def difference(runs: Runs, reference: Runs, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return the final test less that of a reference arm, by adaptation step, paired by seed."""
    return [{"step": step, **paired(_at(runs, step), _at(reference, step)).to_json()} for step in steps]


def totals(runs: Runs) -> dict[str, Any]:
    """Return what the runs cost."""
    return {
        "wall_seconds": estimate(_of(runs, lambda run: run.wall_seconds)).to_json(),
        "bytes_down": estimate(_of(runs, lambda run: run.bytes_down)).mean,
        "bytes_up": estimate(_of(runs, lambda run: run.bytes_up)).mean,
    }


def to_target(runs: Runs, target: Target, measure: Measure) -> dict[str, Any]:
    """Return the rounds and bytes until each run first reached the target."""
    first = [_first(run, target, measure) for run in runs]
    return {
        "reached": sum(look is not None for look in first),
        "rounds": estimate([look.round if look else None for look in first]).to_json(),
        "bytes": estimate([look.bytes if look else None for look in first]).to_json(),
    }


def _first(run: Measured | None, target: Target, measure: Measure) -> Look | None:
    looks = run.looks if run else ()
    return next((look for look in looks if target.reached(look.values[target.step], measure)), None)


def curve(runs: Runs, step: int) -> list[dict[str, Any]]:
    """Return the looks at an adaptation step, over the seeds that are finished."""
    finished = [run.looks for run in runs if run]
    points = []
    for looks in zip(*finished, strict=False):
        values = estimate([look.values[step] for look in looks])
        points.append(
            {
                "round": looks[0].round,
                "tasks": estimate([look.tasks for look in looks]).mean,
                "bytes": estimate([look.bytes for look in looks]).mean,
                "mean": values.mean,
                "ci95": values.ci95,
            }
        )
    return points


def mean_tasks(runs: Runs) -> float | None:
    """Return the training tasks of a run, over seeds."""
    return estimate(_of(runs, lambda run: run.tasks)).mean


def mean_final(runs: Runs, step: int) -> float | None:
    """Return the final measure at an adaptation step, over seeds."""
    return estimate(_at(runs, step)).mean


def _at(runs: Runs, step: int) -> list[float | None]:
    return [None if run is None else run.final[step] for run in runs]


def _of(runs: Runs, value: Callable[[Measured], float]) -> list[float | None]:
    return [None if run is None else value(run) for run in runs]
