"""Tracks a comparison's progress and writes ``compare.json``."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fedmeta.comparison import record, statistics
from fedmeta.comparison.plans import ArmPlan, budget, inner_steps_a_task
from fedmeta.comparison.results import Measured, Runs, on_common_clients, read
from fedmeta.comparison.run_reuse import RunSlot
from fedmeta.comparison.statistics import Target
from fedmeta.config import Config
from fedmeta.experiment.made_with import Made
from fedmeta.tasks import Measure

Status = Literal["waiting", "running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Question:
    """The experiment and measure of a comparison.

    Attributes:
        base: The resolved config of the experiment.
        measure: The main measure of the test tasks.
        scale: Its direction and range.
    """

    base: Config
    measure: str
    scale: Measure

    @property
    def steps(self) -> tuple[int, ...]:
        """Adaptation steps of the results."""
        return self.base.evaluation.steps

    @property
    def step(self) -> int:
        """The adaptation step of the target and the curves."""
        step = self.base.compare.step
        return self.steps[-1] if step is None else step


@dataclass
class Job:
    """A run, which arms with the same config share.

    Attributes:
        name: Name of the arm and seed that it was made for.
        config: Its resolved config.
        made: The code and data that it is made with.
        slot: Its folder, and whether that exists.
        status: Its status.
        error: Why it failed.
    """

    name: str
    config: Config
    made: Made
    slot: RunSlot
    status: Status
    error: str | None = None

    @property
    def cost(self) -> float:
        """Estimate of its relative duration: gradients through the model.

        With an optimizer per client, a round took three times as long on digits.
        """
        optimizers = 3.0 if self.config.training == "local" else 1.0
        return budget(self.config) * (1 + inner_steps_a_task(self.config)) * optimizers


@dataclass(frozen=True)
class ArmRun:
    """An arm's run of one seed.

    Attributes:
        job: The run, which several arms may share.
        reused: Whether it was made for another arm, or finished earlier.
    """

    job: Job
    reused: bool


@dataclass(frozen=True)
class ArmStatus:
    """An arm of the comparison.

    Attributes:
        plan: The arm and its configs.
        arm_runs: Its run for each seed.
    """

    plan: ArmPlan
    arm_runs: tuple[ArmRun, ...]

    @property
    def status(self) -> Status:
        """The arm's overall status."""
        found = {arm_run.job.status for arm_run in self.arm_runs}
        if "running" in found:
            return "running"
        if found <= {"finished", "failed"}:
            return "failed" if "failed" in found else "finished"
        return "waiting"

    @property
    def error(self) -> str | None:
        """Why its first failed run failed."""
        errors = (f"seed {e.job.config.seed}: {e.job.error}" for e in self.arm_runs if e.job.error)
        return next(errors, None)

    @property
    def config(self) -> Config:
        """The config of its first seed."""
        return self.plan.configs[0]

    def runs(self, question: Question) -> list[Measured | None]:
        """Return its finished runs by seed."""
        return [
            read(arm_run.job.slot.path, question.measure, question.scale.worst)
            if arm_run.job.status == "finished"
            else None
            for arm_run in self.arm_runs
        ]


Searched = Callable[[], Mapping[str, list[dict[str, Any]]]]
REFERENCE = "centralized"
"""The arm that the target is a share of, if it is compared."""


class ComparisonStatus:
    """A comparison's state and its ``compare.json``.

    Args:
        folder: The comparison's folder.
        question: The experiment and measure.
        arms: The arms.
        about: First entries of the file: experiment, command, versions.
        searched: Each arm's search for settings, as plain values; arms without one are left out.
    """

    def __init__(
        self,
        folder: Path,
        question: Question,
        arms: Sequence[ArmStatus],
        about: Mapping[str, Any],
        searched: Searched = dict,
    ) -> None:
        self.folder = folder
        self.question = question
        self.arms = tuple(arms)
        self.about = dict(about)
        self.searched = searched
        self.status: Status = "running"
        self._began = time.monotonic()
        self._started = _now()
        self._spent = self._spent_before()

    @property
    def jobs(self) -> list[Job]:
        """Every run once, in the order of arms and seeds."""
        return list({id(e.job): e.job for arm in self.arms for e in arm.arm_runs}.values())

    @property
    def failures(self) -> Iterator[str]:
        """A line about each run that failed."""
        return (f"{job.name}: {job.error}" for job in self.jobs if job.status == "failed")

    def write(self) -> dict[str, Any]:
        """Replace ``compare.json``, and return its contents.

        Raises:
            OSError: If it cannot be written.
        """
        return record.write(self.folder, self.data())

    def data(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        runs = on_common_clients([arm.runs(self.question) for arm in self.arms])
        target = self._target(runs)
        return {
            **self.about,
            "status": self.status,
            "started": self._started,
            "ended": None if self.status == "running" else _now(),
            "wall_seconds": round(self._spent + time.monotonic() - self._began, 3),
            "seeds": [config.seed for config in self.arms[0].plan.configs],
            "steps": list(self.question.steps),
            "measure": self.question.measure,
            "scale": asdict(self.question.scale),
            "test_clients": self.question.base.test_clients,
            "interval": "seeds" if len(self.arms[0].arm_runs) > 1 else "clients",
            "target": target.to_json() if target else None,
            "arms": [
                self._arm(arm, own, runs[0] if place else None, partial(_to_target, target))
                for place, (arm, own) in enumerate(zip(self.arms, runs, strict=True))
            ],
        }

    def _arm(
        self,
        arm: ArmStatus,
        runs: Runs,
        reference: Runs | None,
        to_target: Any,
    ) -> dict[str, Any]:
        config = arm.config
        tasks = statistics.mean_tasks(runs)
        planned = budget(config)
        used = planned if tasks is None else tasks
        return {
            "name": arm.plan.arm.name,
            "what": arm.plan.arm.what,
            "settings": dict(arm.plan.arm.settings),
            "status": arm.status,
            "error": arm.error,
            "runs": [self._run(arm_run) for arm_run in arm.arm_runs],
            "clients": [len(run.clients) if run and run.clients else None for run in runs],
            "final": statistics.final(runs, self.question.steps),
            "difference": statistics.difference(runs, reference, self.question.steps)
            if reference
            else None,
            "rounds": config.rounds,
            "tasks": used,
            "inner_steps": used * inner_steps_a_task(config),
            "local_steps": config.local_steps,
            **statistics.totals(runs),
            "to_target": to_target(runs),
            "curve": statistics.curve(runs, self.question.step),
            "search": self.searched().get(arm.plan.arm.name, []),
        }

    def _run(self, arm_run: ArmRun) -> dict[str, Any]:
        job = arm_run.job
        return {
            "seed": job.config.seed,
            "run": os.path.relpath(job.slot.path, self.folder),
            "status": job.status,
            "reused": arm_run.reused,
            "error": job.error,
        }

    def _target(self, runs: Sequence[Runs]) -> Target | None:
        wanted = self.question.base.compare
        if wanted.target is not None:
            return self._target_of(wanted.target, "compare.target of the config")
        names = [arm.plan.arm.name for arm in self.arms]
        place = names.index(REFERENCE) if REFERENCE in names else 0
        final = statistics.mean_final(runs[place], self.question.step)
        if final is None:
            return None
        what = f"{names[place]}'s final {self.question.measure}"
        # The target must be worse than the reference, whatever the sign and direction of the measure.
        if self.question.scale.higher_is_better == (final >= 0):
            return self._target_of(final * wanted.share, f"{100 * wanted.share:.4g}% of {what}")
        return self._target_of(final / wanted.share, f"{what} divided by {wanted.share:.4g}")

    def _target_of(self, value: float, why: str) -> Target:
        return Target(value, self.question.step, why, self.question.scale.higher_is_better)

    def _spent_before(self) -> float:
        """Return the time spent by an earlier process that did not finish the comparison."""
        data = record.written(self.folder)
        seconds = data.get("wall_seconds")
        if data.get("status") == "finished" or not isinstance(seconds, float):
            return 0.0
        return seconds


def _to_target(target: Target | None, runs: Runs) -> dict[str, Any] | None:
    return statistics.to_target(runs, target) if target else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
