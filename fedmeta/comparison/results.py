"""Reads a finished run's test results and training costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.rows import half_of
from fedmeta.federation import counting_missing


@dataclass(frozen=True)
class TrackedTest:
    """An evaluation of the test clients during a run.

    Attributes:
        round: The round after which it took place.
        tasks: Training tasks until then.
        bytes: Bytes sent until then, down and up.
        values: The measure by adaptation step, infinite as in `Tested`; clients that did not answer
            count as the worst.
        ci95: Half its 95% interval over clients by adaptation step; None if unknown.
    """

    round: int
    tasks: int
    bytes: int
    values: Mapping[int, float]
    ci95: Mapping[int, float | None]


@dataclass(frozen=True)
class Tested:
    """Results of test clients after an adaptation step.

    Attributes:
        value: Mean of the measure over their tasks; infinite if the loss of one is.
        tasks: Number of tasks.
        tasks_ci95: Half its 95% interval over tasks; None if unknown.
        diverged: Diverged tasks, which count as the worst; None: an old run, which left them out.
    """

    value: float
    tasks: int
    tasks_ci95: float | None
    diverged: int | None


@dataclass(frozen=True)
class Measured:
    """Results and costs of a finished run.

    Attributes:
        final: The final test by adaptation step.
        clients: The same for each client that answered, by its id; empty if not recorded.
        tracked: Evaluations of the test clients during the run.
        wall_seconds: Time spent.
        tasks: Training tasks that entered the model.
        bytes_down: Bytes to clients.
        bytes_up: Bytes from them.
    """

    final: Mapping[int, Tested]
    clients: Mapping[int, Mapping[int, Tested]]
    tracked: tuple[TrackedTest, ...]
    wall_seconds: float
    tasks: int
    bytes_down: int
    bytes_up: int

    def only(self, clients: frozenset[int]) -> "Measured":
        """Return the run with its final test restricted to some clients."""
        kept = {client: steps for client, steps in self.clients.items() if client in clients}
        if len(kept) == len(self.clients):
            return self
        final = {step: _pooled([steps[step] for steps in kept.values()]) for step in self.final}
        return replace(self, final=final, clients=kept)

    def of_clients(self, step: int) -> list[float]:
        """Return each client's value, in the order of their ids."""
        return [self.clients[client][step].value for client in sorted(self.clients)]


@lru_cache(maxsize=1024)
def read(path: Path, measure: str, worst: float | None) -> Measured:
    """Read the results and costs of a finished run, whose files no longer change.

    Args:
        path: The run's folder.
        measure: The main measure of its tasks.
        worst: The measure's worst value; None: it has none.

    Raises:
        UsageError: If a file is damaged.
    """
    folder = RunFolder(path)
    info, rows = folder.info, folder.metrics()
    tested = folder.test() if (path / "test.jsonl").exists() else []
    tasks = list(accumulate(row["tasks"] for row in rows))
    sent = list(accumulate(row["bytes_down"] + row["bytes_up"] for row in rows))
    tracked = tuple(
        TrackedTest(row["round"], tasks[i], sent[i], *_tracked_values(row["test"], measure, worst))
        for i, row in enumerate(rows)
        if row["test"]
    )
    if not rows:
        # Without rounds, the final test is also the evaluation at round 0.
        tracked = (TrackedTest(0, 0, 0, *_tracked_values(info["final"], measure, worst)),)
    return Measured(
        final=_by_step(info["final"], measure),
        clients={row["client"]: _by_step(row["steps"], measure) for row in tested},
        tracked=tracked,
        wall_seconds=info["wall_seconds"],
        tasks=sum(row["tasks"] for row in rows),
        bytes_down=sum(row["bytes_down"] for row in rows),
        bytes_up=sum(row["bytes_up"] for row in rows),
    )


def validation_value(path: Path, measure: str, worst: float | None, step: int) -> float:
    """Return the measure of the validation clients in a finished run's last evaluation of them.

    Args:
        path: The run's folder.
        measure: The main measure of its tasks.
        worst: The measure's worst value; None: it has none.
        step: The adaptation step.

    Returns:
        The mean over their tasks, in which clients that did not answer count as the worst; infinite if
        the loss of one is. If none ever answered, the worst value.
    """
    evaluations = [row["evaluation"] for row in RunFolder(path).metrics() if row["evaluation"]]
    if not evaluations:
        return math.inf if worst is None else worst
    return _tracked_values(evaluations[-1], measure, worst)[0][step]


def _by_step(steps: Iterable[Mapping[str, Any]], measure: str) -> dict[int, Tested]:
    over_tasks = half_of(measure).replace("ci95", "tasks_ci95")
    return {
        s["step"]: Tested(_or_infinite(s[measure]), s["tasks"], s.get(over_tasks), s.get("diverged"))
        for s in steps
    }


def _or_infinite(value: float | None) -> float:
    # Old files have NaN.
    return value if value is not None and math.isfinite(value) else math.inf


def _tracked_values(
    steps: Iterable[Mapping[str, Any]], measure: str, worst: float | None
) -> tuple[dict[int, float], dict[int, float | None]]:
    values, halves = {}, {}
    for s in steps:
        answered, asked = s.get("clients", 0), s.get("clients_asked", 0)
        value = counting_missing(s[measure], worst, answered, asked)
        values[s["step"]] = _or_infinite(value)
        # Old files have neither intervals over clients nor this field.
        halves[s["step"]] = s["ci95"] if answered == asked > 0 else None
    return values, halves


def _pooled(clients: Sequence[Tested]) -> Tested:
    tasks = sum(one.tasks for one in clients)
    mean = math.fsum(one.value * one.tasks for one in clients) / tasks if tasks else math.inf
    diverged = [one.diverged for one in clients if one.diverged is not None]
    return Tested(mean, tasks, None, sum(diverged) if diverged else None)


Runs = Sequence[Measured | None]
"""An arm's runs by seed; None for one that is not finished."""


def on_common_clients(arms: Sequence[Runs]) -> list[list[Measured | None]]:
    """Return the runs of all arms, restricted per seed to the clients that answered in every arm.

    An arm must not look better than another because a client with hard tasks did not answer there.
    """
    columns = []
    for seed in zip(*arms, strict=True):
        answered = [frozenset(run.clients) for run in seed if run and run.clients]
        common = frozenset.intersection(*answered) if answered else frozenset()
        columns.append([run.only(common) if run and run.clients else run for run in seed])
    return [list(arm) for arm in zip(*columns, strict=True)]
