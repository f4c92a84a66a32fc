"""What a comparison is made of: a question, arms, and the runs that answer it."""

from dataclasses import dataclass
from typing import Literal

from fedmeta.experiment.compare.finding import Place
from fedmeta.experiment.compare.measured import Measure, Measured, read
from fedmeta.experiment.compare.plans import ArmPlan, budget, inner_steps_a_task
from fedmeta.experiment.config import Config
from fedmeta.experiment.identity import Made

Status = Literal["waiting", "running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Question:
    """What a comparison asks.

    Attributes:
        base: The resolved config of the experiment.
        measure: What test clients are measured by.
    """

    base: Config
    measure: Measure

    @property
    def steps(self) -> tuple[int, ...]:
        """Adaptation steps that results are given for."""
        return self.base.evaluation.steps

    @property
    def step(self) -> int:
        """The adaptation step that the target and the curves are about."""
        step = self.base.compare.step
        return self.steps[-1] if step is None else step


@dataclass
class Job:
    """A run, which arms that come to the same config share.

    Attributes:
        name: Of the arm and seed that it was made for.
        config: Its resolved config.
        made: What it is made with.
        place: Its folder, and whether there is something in it.
        status: How it stands.
        error: Why it failed.
    """

    name: str
    config: Config
    made: Made
    place: Place
    status: Status
    error: str | None = None

    @property
    def cost(self) -> float:
        """About how long it takes beside others: gradients through the model.

        With an optimizer for each client, a round took three times as long on digits.
        """
        optimizers = 3.0 if self.config.training == "local" else 1.0
        return budget(self.config) * (1 + inner_steps_a_task(self.config)) * optimizers


@dataclass(frozen=True)
class Entry:
    """An arm's run of one seed.

    Attributes:
        job: What is run; of several arms perhaps.
        reused: Whether it was not made for this arm, or was finished before.
    """

    job: Job
    reused: bool


@dataclass(frozen=True)
class Side:
    """An arm of the comparison.

    Attributes:
        plan: The arm and its configs.
        entries: Its run for each seed.
    """

    plan: ArmPlan
    entries: tuple[Entry, ...]

    @property
    def status(self) -> Status:
        """How the arm stands as a whole."""
        found = {entry.job.status for entry in self.entries}
        if "running" in found:
            return "running"
        if found <= {"finished", "failed"}:
            return "failed" if "failed" in found else "finished"
        return "waiting"

    @property
    def error(self) -> str | None:
        """Why its first failed run failed."""
        errors = (f"seed {e.job.config.seed}: {e.job.error}" for e in self.entries if e.job.error)
        return next(errors, None)

    @property
    def config(self) -> Config:
        """The config of its first seed."""
        return self.plan.configs[0]

    def runs(self, measure: Measure) -> list[Measured | None]:
        """Return its finished runs by seed."""
        return [
            read(entry.job.place.path, measure) if entry.job.status == "finished" else None
            for entry in self.entries
        ]
